//! The question before state is removed.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use crate::Error;

/// Asks on a terminal whether `directory` may be removed. Without a terminal there is no answer, so a
/// script passes `--yes`, and the caller of this function checks that option.
pub(crate) fn removal(directory: &Path) -> Result<(), Error> {
    let error = || Error::NotConfirmed { directory: directory.to_owned() };
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(error());
    }
    documents::stderr_line(format_args!(
        "This removes {} for good: the forge with its repositories, the registry with its images, the machines \
         with their volumes, and the object store with every copy and receipt of a drain.\nRemove it? [y/N]",
        directory.display()
    ));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|_| error())?;
    if is_yes(&answer) { Ok(()) } else { Err(error()) }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_yes_confirms_a_removal() {
        for answer in ["y\n", "yes\n", " Y \n", "YES"] {
            assert!(is_yes(answer), "{answer}");
        }
        for answer in ["", "\n", "n\n", "no\n", "yess\n", "j\n"] {
            assert!(!is_yes(answer), "{answer}");
        }
    }
}
