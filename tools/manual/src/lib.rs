//! Manual pages and shell completions of every program, out of their own command lines: so that
//! they never say anything else than `--help`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _, Parser};
use clap_complete::{Shell, generate};
use documents::{Diagnostic, Exit};

/// Writes manual pages and shell completions of every program
///
/// They go where a package of a Unix system has them: below `share/man`,
/// `share/bash-completion`, `share/zsh` and `share/fish` of the folder.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// The folder; made if it is not there
    folder: PathBuf,
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        "MachineFailed"
    }

    fn help(&self) -> Option<String> {
        Some("look at its permissions, and at the space that is left".to_owned())
    }

    fn exit(&self) -> Exit {
        Exit::Permanent
    }
}

/// Every program that people call.
fn programs() -> [Command; 6] {
    [
        vcs_bootstrap::Cli::command(),
        artifact_attest::Cli::command(),
        talos_provision::Cli::command(),
        flux_seed::Cli::command(),
        data_drain::Cli::command(),
        lab::Cli::command(),
    ]
}

/// Writes them all.
///
/// # Errors
///
/// [`Error`].
pub fn run(cli: &Cli) -> Result<(), Error> {
    let share = cli.folder.join("share");
    for mut program in programs() {
        let name = program.get_name().to_owned();
        for (shell, path) in [
            (Shell::Bash, format!("bash-completion/completions/{name}")),
            (Shell::Zsh, format!("zsh/site-functions/_{name}")),
            (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
        ] {
            let mut text = Vec::new();
            generate(shell, &mut program, &name, &mut text);
            write(&share.join(path), &text)?;
        }
        program.build();
        pages(&share.join("man/man1"), &program)?;
    }
    Ok(())
}

/// The page of `command`, and of each that it has: `flux-seed-apply.1`.
fn pages(folder: &Path, command: &Command) -> Result<(), Error> {
    let page = clap_mangen::Man::new(command.clone());
    let path = folder.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).map_err(|source| Error { path: path.clone(), source })?;
    write(&path, &text)?;
    let document = command.get_subcommands().filter(|it| it.get_name() != "help");
    document.into_iter().try_for_each(|it| pages(folder, it))
}

fn write(path: &Path, text: &[u8]) -> Result<(), Error> {
    let cannot = |source| Error { path: path.to_owned(), source };
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(cannot)?;
    fs::write(path, text).map_err(cannot)
}
