//! How many have been greeted: a file on a volume.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A number that only grows, and that is on the disk before anybody is told of it.
#[derive(Debug)]
pub struct Counter {
    folder: PathBuf,
    count: Mutex<u64>,
}

impl Counter {
    /// Reads the counter in `folder`; none has been written before the first greeting.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or holds something else than a number. It is left as it is: a
    /// counter that starts again at nought would hide that something was lost.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let count = match fs::read_to_string(folder.join("counter")) {
            Ok(text) => text.trim_end().parse().map_err(|error| {
                io::Error::new(
                    ErrorKind::InvalidData,
                    format!("`counter` holds no number: {error}"),
                )
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A new volume. The file shows from then on that this is the right one, also to a drain.
                let new = Self { folder: folder.to_owned(), count: Mutex::new(0) };
                new.write(0)?;
                return Ok(new);
            }
            Err(error) => return Err(error),
        };
        Ok(Self { folder: folder.to_owned(), count: Mutex::new(count) })
    }

    /// How many there were so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more.
    ///
    /// # Errors
    ///
    /// The number cannot be written; it has then not been counted.
    pub fn next(&self) -> io::Result<u64> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *count + 1;
        self.write(next)?;
        *count = next;
        Ok(next)
    }

    fn write(&self, count: u64) -> io::Result<()> {
        let new = self.folder.join("counter.new");
        let mut file = File::create(&new)?;
        writeln!(file, "{count}")?;
        file.sync_all()?;
        fs::rename(&new, self.folder.join("counter"))?;
        File::open(&self.folder)?.sync_all() // the rename itself
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("greeter-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder for the test");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_counter_goes_on_where_the_one_before_it_ended() -> io::Result<()> {
        let folder = Folder::new("goes-on");
        let first = Counter::open(&folder.0)?;
        assert_eq!((first.next()?, first.next()?), (1, 2));
        assert_eq!(Counter::open(&folder.0)?.next()?, 3);
        Ok(())
    }

    #[test]
    fn a_new_volume_holds_a_counter_before_the_first_greeting() -> io::Result<()> {
        let folder = Folder::new("new");
        Counter::open(&folder.0)?;
        assert_eq!(fs::read_to_string(folder.0.join("counter"))?, "0\n");
        assert!(
            Counter::open(&folder.0.join("absent")).is_err(),
            "without a volume nothing counts"
        );
        Ok(())
    }

    #[test]
    fn a_write_that_was_cut_off_is_not_read() -> io::Result<()> {
        let folder = Folder::new("cut-off");
        Counter::open(&folder.0)?.next()?;
        fs::write(folder.0.join("counter.new"), "9")?;
        assert_eq!(Counter::open(&folder.0)?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_file_that_holds_no_number_is_refused_and_kept() -> io::Result<()> {
        let folder = Folder::new("no-number");
        fs::write(folder.0.join("counter"), "many")?;
        assert!(Counter::open(&folder.0).is_err());
        assert_eq!(fs::read_to_string(folder.0.join("counter"))?, "many");
        Ok(())
    }

    #[test]
    fn a_number_that_could_not_be_written_was_not_counted() -> io::Result<()> {
        let folder = Folder::new("unwritten");
        let counter = Counter::open(&folder.0)?;
        fs::remove_dir_all(&folder.0)?;
        assert!(counter.next().is_err());
        assert_eq!(counter.count(), 0);
        Ok(())
    }
}
