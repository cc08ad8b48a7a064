//! Roots of the garbage collector, which keep a build result in the store until it is packed.
//!
//! Nix may collect garbage at any time (`min-free` in nix.conf), and a result without a root is garbage. A root is a
//! link to the result in a folder of this run; Nix itself forgets a root whose link is gone
//! (<https://nix.dev/manual/nix/latest/package-management/garbage-collector-roots>).

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::Error;

/// Shell script that waits until its standard input closes, and then removes the folder `$1`.
const REMOVER: &str = r#"read -r ended; rm -rf -- "$1""#;

/// A temporary folder for links. It is removed when this value is dropped, and also when this program is killed.
#[derive(Debug)]
pub(crate) struct Roots {
    folder: TempDir,
    remover: Child,
}

impl Roots {
    pub(crate) fn new() -> Result<Self, Error> {
        let unreadable =
            |source| Error::Unreadable { what: "a temporary folder".to_owned(), source };
        let folder = tempfile::tempdir().map_err(unreadable)?;
        let remover = Command::new("sh")
            .args(["-c", REMOVER, "sh"])
            .arg(folder.path())
            .env_clear() // no secret of this program
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C must not end it before this program
            .spawn()
            .map_err(|source| Error::Tool { program: "sh", source })?;
        Ok(Self { folder, remover })
    }

    /// Returns the path of the link to the result.
    pub(crate) fn link(&self) -> PathBuf {
        self.link_of("result")
    }

    /// Returns the path of a link with another name. Nix appends `-2`, `-3` and so on for several store paths.
    pub(crate) fn link_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        drop(self.remover.stdin.take()); // the script ends
        let _ = self.remover.wait(); // fails only if the script has already been waited for
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_folder_of_links_is_removed_with_its_owner_and_what_they_name_stays() -> Result<(), Error>
    {
        let roots = Roots::new()?;
        let (link, kept) = (roots.link(), tempfile::tempdir().expect("a folder"));
        symlink(kept.path(), &link).expect("a link");
        fs::write(kept.path().join("file"), "").expect("a file");
        drop(roots);
        assert!(fs::symlink_metadata(&link).is_err());
        assert!(kept.path().join("file").exists());
        Ok(())
    }
}
