//! Counter of the greetings, stored in a file on a volume.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A number that only grows. It is on the disk before a caller gets it.
#[derive(Debug)]
pub struct Counter {
    folder: PathBuf,
    count: Mutex<u64>,
}

impl Counter {
    /// Reads the counter in `folder`, and creates it with the value 0 on a new volume.
    ///
    /// # Errors
    ///
    /// An error if the file cannot be read or does not hold a number. The file is then left unchanged,
    /// because a counter that starts again at 0 would hide a loss of data.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let count = match fs::read_to_string(folder.join("counter")) {
            Ok(text) => text.trim_end().parse().map_err(|error| {
                io::Error::new(
                    ErrorKind::InvalidData,
                    format!("`counter` does not hold a number: {error}"),
                )
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A new volume. The file is created at once, so that the volume can be recognised,
                // also by a drain before the first greeting.
                let new = Self { folder: folder.to_owned(), count: Mutex::new(0) };
                new.write(0)?;
                return Ok(new);
            }
            Err(error) => return Err(error),
        };
        Ok(Self { folder: folder.to_owned(), count: Mutex::new(count) })
    }

    /// Returns the number of greetings so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one greeting and returns the new number.
    ///
    /// # Errors
    ///
    /// An error if the number cannot be written. The counter then keeps its old value.
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
        File::open(&self.folder)?.sync_all() // the rename is durable once the folder is synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary folder, which is removed when the test ends.
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
    fn a_new_counter_continues_at_the_stored_number() -> io::Result<()> {
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
            "a folder that does not exist is an error"
        );
        Ok(())
    }

    #[test]
    fn an_unfinished_write_is_ignored() -> io::Result<()> {
        let folder = Folder::new("cut-off");
        Counter::open(&folder.0)?.next()?;
        fs::write(folder.0.join("counter.new"), "9")?;
        assert_eq!(Counter::open(&folder.0)?.count(), 1);
        Ok(())
    }

    #[test]
    fn a_file_without_a_number_is_an_error_and_stays_unchanged() -> io::Result<()> {
        let folder = Folder::new("no-number");
        fs::write(folder.0.join("counter"), "many")?;
        assert!(Counter::open(&folder.0).is_err());
        assert_eq!(fs::read_to_string(folder.0.join("counter"))?, "many");
        Ok(())
    }

    #[test]
    fn next_keeps_the_old_number_when_the_write_fails() -> io::Result<()> {
        let folder = Folder::new("unwritten");
        let counter = Counter::open(&folder.0)?;
        fs::remove_dir_all(&folder.0)?;
        assert!(counter.next().is_err());
        assert_eq!(counter.count(), 0);
        Ok(())
    }
}
