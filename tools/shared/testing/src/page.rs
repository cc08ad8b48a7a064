//! Pages of a program whose input differs from run to run, for example by the address of a server.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Test;

/// A page and the folder in which its commands run.
pub struct Page {
    file: &'static Path,
    folder: PathBuf,
}

impl Page {
    /// Copies the page `file` into `folder`, and creates the folder of its commands next to the copy.
    pub fn copy(file: &'static str, folder: &Path) -> Test<Self> {
        let page = Self { file: Path::new(file), folder: folder.to_owned() };
        fs::copy(page.file, page.copied())?;
        fs::create_dir_all(page.input())?;
        Ok(page)
    }

    fn copied(&self) -> PathBuf {
        self.folder.join(self.file.file_name().unwrap_or_default())
    }

    /// Returns the folder in which the commands run. trycmd finds it by its name: that of the page, with
    /// the ending `.in`.
    #[must_use]
    pub fn input(&self) -> PathBuf {
        self.copied().with_extension("in")
    }

    /// Runs every command of the page, and compares its output and exit status. With `TRYCMD=overwrite`
    /// in the environment, writes the page anew instead.
    pub fn run(&self, program: &str, binary: &Path, variables: &[(&str, &str)]) -> Test {
        let cases = trycmd::TestCases::new();
        cases.register_bin(program, binary);
        for (name, value) in variables {
            cases.env(*name, *value);
        }
        cases.case(self.copied());
        drop(cases); // the cases run when they are dropped
        if std::env::var_os("TRYCMD").is_some_and(|value| value == "overwrite") {
            fs::copy(self.copied(), self.file)?;
        }
        Ok(())
    }
}
