//! Generates manual pages and shell completions from the command-line definitions of the programs,
//! so that they always agree with `--help`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _, Parser};
use clap_complete::{Shell, generate};
use documents::{Diagnostic, Exit, Reason};

/// Writes manual pages and shell completions of every program
///
/// The files go to the paths of a Unix package: below `share/man`, `share/bash-completion`,
/// `share/zsh` and `share/fish` of the folder.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Folder for the files, created if absent
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
    fn reason(&self) -> Reason {
        Reason::FileFailed
    }

    fn help(&self) -> Option<String> {
        Some("check the permissions of the folder and the free disk space".to_owned())
    }

    fn exit(&self) -> Exit {
        Exit::Permanent
    }
}

/// Returns the command line of every program that users call.
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

/// Writes the pages and completions of every program.
///
/// # Errors
///
/// [`Error`] if a file cannot be written.
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

/// Writes the page of `command` and of each subcommand, for example `flux-seed-apply.1`.
fn pages(folder: &Path, command: &Command) -> Result<(), Error> {
    let page = clap_mangen::Man::new(command.clone());
    let path = folder.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).map_err(|source| Error { path: path.clone(), source })?;
    write(&path, &text)?;
    let mut subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    subcommands.try_for_each(|subcommand| pages(folder, subcommand))
}

fn write(path: &Path, text: &[u8]) -> Result<(), Error> {
    let cannot = |source| Error { path: path.to_owned(), source };
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(cannot)?;
    fs::write(path, text).map_err(cannot)
}
