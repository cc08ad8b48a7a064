//! Everything that can go wrong, what to do about it, and whether to try again.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use documents::{Diagnostic, Exit};

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not right, or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// Not in the repository.
    #[error("neither {} nor a folder above it holds continuous-integration/components", from.display())]
    NoRepository {
        /// Where it looked.
        from: PathBuf,
    },
    /// An argument of `init` is wrong.
    #[error("{what}: {why}")]
    InitArgument {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// `init` would overwrite what is somebody's own.
    #[error("{} is not one of those that are published: it may protect something", path.display())]
    InitOwn {
        /// Which file.
        path: PathBuf,
    },
    /// The file of identities is there, and has none that can be used.
    #[error("{} has no identity that is not published", file.display())]
    InitIdentity {
        /// Which file.
        file: PathBuf,
    },
    /// A document that `init` changes is not there.
    #[error("{file} is not there, or lacks what it must have")]
    InitDocument {
        /// Which file.
        file: &'static str,
    },
    /// A secret cannot be made.
    #[error(transparent)]
    Keyring(#[from] keyring::Error),
    /// Somebody asked for what there is not.
    #[error("there is no component called `{name}`")]
    NoSuchComponent {
        /// What was asked for.
        name: String,
        /// The names of all components, for people.
        known: String,
    },
    /// The system refused something about a file.
    #[error("cannot {what} {}", path.display())]
    File {
        /// A verb.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk became full.
    #[error("no space is left on the disk that holds {}", path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
    },
    /// The disk would become full.
    #[error("only {free_mib} MiB are free on the disk that holds {}, and a build may need {need_mib}", path.display())]
    LittleSpace {
        /// Where.
        path: PathBuf,
        /// What there is.
        free_mib: u64,
        /// What is asked.
        need_mib: u64,
    },
    /// Programs that the machine must have.
    #[error("this machine lacks {}", packages.join(", "))]
    Missing {
        /// As Debian calls them.
        packages: Vec<&'static str>,
    },
    /// apt refused.
    #[error("apt-get failed: {said}")]
    InstallFailed {
        /// Its last line.
        said: String,
        /// All of it.
        log: PathBuf,
    },
    /// No Go.
    #[error("there is no `go`, and the components are built from their Go modules")]
    NoGo {
        /// The version.
        wanted: String,
    },
    /// Another Go than the module wants.
    #[error("this Go is too old: {said}")]
    OldGo {
        /// What Go says.
        said: String,
    },
    /// No C compiler.
    #[error("there is no C compiler, and the forge's SQLite is written in C")]
    NoCompiler,
    /// Go refused.
    #[error("{component} does not build: {said}")]
    BuildFailed {
        /// Which.
        component: &'static str,
        /// Its last line.
        said: String,
        /// All of it.
        log: PathBuf,
    },
    /// A component in the cache lacks a program.
    #[error("{} holds only a part of {component}", built.display())]
    Incomplete {
        /// Which.
        component: &'static str,
        /// Where.
        built: PathBuf,
    },
    /// Another command is at work for too long.
    #[error("another `lab` has held {} for half an hour", lock.display())]
    Busy {
        /// By which it is known.
        lock: PathBuf,
    },
    /// Somebody else listens there.
    #[error("{address}, which the {service} needs, is in use by {}", by.as_deref().unwrap_or("a process that cannot be told"))]
    PortInUse {
        /// For which service.
        service: String,
        /// Where.
        address: SocketAddr,
        /// Name and id of the process, if it can be found.
        by: Option<String>,
    },
    /// A service dies as often as it is started.
    #[error("the {service} does not stay up: {said}")]
    Died {
        /// Which.
        service: String,
        /// Its last line.
        said: String,
        /// All of it.
        log: PathBuf,
    },
    /// A service runs and does not answer.
    #[error("the {service} has not answered for {seconds} s")]
    Silent {
        /// Which.
        service: String,
        /// How long.
        seconds: u64,
        /// What it says.
        log: PathBuf,
    },
    /// The running lab is another than the one asked for.
    #[error("the lab in {} runs on {running}, not on {asked}", directory.display())]
    OtherNetwork {
        /// Which lab.
        directory: PathBuf,
        /// Its network.
        running: String,
        /// The one asked for.
        asked: String,
    },
    /// A lab runs here already, and this would be the second.
    #[error("a lab runs in {} already", directory.display())]
    Running {
        /// Where.
        directory: PathBuf,
    },
    /// It does not end.
    #[error("the lab (process {pid}) has not ended within {seconds} s")]
    StillRunning {
        /// Its process.
        pid: u32,
        /// How long.
        seconds: u64,
    },
    /// The forge may not run as root, and the user for it cannot reach its files.
    #[error("the user `git`, as whom the forge runs, may not enter {}", folder.display())]
    Unreachable {
        /// Where it ends.
        folder: PathBuf,
    },
    /// There is no user as whom the forge could run.
    #[error("the forge refuses to run as root, and the user `git` cannot be made: {said}")]
    NoForgeUser {
        /// What `useradd` says.
        said: String,
    },
    /// A command of somebody else's failed.
    #[error("{command} failed: {said}")]
    Command {
        /// Which, without its arguments.
        command: String,
        /// Its last line.
        said: String,
    },
    /// A service answered something else than it should.
    #[error("{url} answered {answer}")]
    Answer {
        /// What was asked.
        url: String,
        /// The status, or why there was none.
        answer: String,
    },
    /// What the lab wrote cannot be read.
    #[error("{} is not what this version writes", path.display())]
    Garbled {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// `--wipe` was pointed at something else.
    #[error("{} was not made by the lab", directory.display())]
    NotOurs {
        /// Which.
        directory: PathBuf,
    },
    /// Removing would go through to somewhere else.
    #[error("{} is still mounted", mount.display())]
    Mounted {
        /// Where.
        mount: PathBuf,
    },
}

impl Diagnostic for Error {
    fn reason(&self) -> &'static str {
        match self {
            Self::Stream(error) => error.reason(),
            Self::NoRepository { .. } => "NoRepository",
            Self::InitArgument { .. } | Self::InitDocument { .. } => "Invalid",
            Self::InitOwn { .. } | Self::InitIdentity { .. } => "NotOverwritten",
            Self::Keyring(error) => error.reason(),
            Self::NoSuchComponent { .. } => "NoSuchComponent",
            Self::File { .. } => "FileRefused",
            Self::DiskFull { .. } | Self::LittleSpace { .. } => "DiskFull",
            Self::Missing { .. } => "Missing",
            Self::InstallFailed { .. } => "InstallFailed",
            Self::NoGo { .. } | Self::OldGo { .. } => "NoGo",
            Self::NoCompiler => "NoCompiler",
            Self::BuildFailed { .. } => "BuildFailed",
            Self::Incomplete { .. } => "Incomplete",
            Self::Busy { .. } => "Busy",
            Self::PortInUse { .. } => "PortInUse",
            Self::Died { .. } => "Died",
            Self::Silent { .. } => "Silent",
            Self::OtherNetwork { .. } => "OtherNetwork",
            Self::Running { .. } => "Running",
            Self::StillRunning { .. } => "StillRunning",
            Self::Unreachable { .. } => "Unreachable",
            Self::NoForgeUser { .. } => "NoForgeUser",
            Self::Command { .. } => "CommandFailed",
            Self::Answer { .. } => "UnexpectedAnswer",
            Self::Garbled { .. } => "Garbled",
            Self::NotOurs { .. } => "NotOurs",
            Self::Mounted { .. } => "Mounted",
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Stream(error) => return error.help(),
            Self::NoRepository { .. } => {
                "run it inside the repository, or say where they are: LAB_COMPONENTS".to_owned()
            }
            Self::InitArgument { .. } => "`./tasks/init --help` says what it takes".to_owned(),
            Self::InitDocument { .. } => {
                "run it in a project made from the template, or in a clone of these tools".to_owned()
            }
            Self::InitOwn { .. } => {
                "nothing was touched: a new root would make all that derives from the old one useless; \
                 to rotate, bump a generation in the Project"
                    .to_owned()
            }
            Self::InitIdentity { .. } => {
                "name another file with --identity: a new one is made if it is not there".to_owned()
            }
            Self::Keyring(error) => return error.help(),
            Self::NoSuchComponent { known, .. } => format!("there are {known}"),
            Self::File { .. } => "see to the file, then run the same command again".to_owned(),
            Self::DiskFull { .. } | Self::LittleSpace { .. } => {
                "make space (`go clean -cache` frees what Go can make again), or set LAB_CACHE and LAB_DIR to folders on another disk".to_owned()
            }
            Self::Missing { packages } => format!(
                "install them; on Debian: sudo apt-get install --no-install-recommends {}",
                packages.join(" ")
            ),
            Self::InstallFailed { log, .. } | Self::BuildFailed { log, .. } => {
                format!("{} holds all that it said", log.display())
            }
            Self::NoGo { wanted } => {
                format!("install Go {wanted} or newer (https://go.dev/dl), and have it on PATH")
            }
            Self::OldGo { .. } => {
                "install that version (https://go.dev/dl), and have it first on PATH".to_owned()
            }
            Self::NoCompiler => "apt-get install gcc libc6-dev".to_owned(),
            Self::Incomplete { built, .. } => {
                format!("remove {}, and it is built again", built.display())
            }
            Self::Busy { .. } => "wait for it, or end it".to_owned(),
            Self::PortInUse { .. } => {
                "end that process, or set LAB_NETWORK to other addresses, such as 127.78.0.0/16"
                    .to_owned()
            }
            Self::Died { log, .. } => {
                format!("{} says why; then `lab down` and `lab up` again", log.display())
            }
            Self::Silent { log, .. } => {
                format!("{} says what it does; then run the same command again", log.display())
            }
            Self::OtherNetwork { running, .. } => {
                format!("`lab down` first, or set LAB_NETWORK={running}")
            }
            Self::Running { .. } => "`lab status` shows it".to_owned(),
            Self::StillRunning { .. } => {
                "run `lab down` again; it goes on waiting".to_owned()
            }
            Self::Unreachable { folder } => format!(
                "chmod o+x {}, or set LAB_DIR and LAB_CACHE to folders that every user may enter",
                folder.display()
            ),
            Self::NoForgeUser { .. } => {
                "make it (useradd --system git), or run the lab as another user than root"
                    .to_owned()
            }
            Self::Command { .. } | Self::Answer { .. } => {
                "run the same command again; `lab status` names the logs".to_owned()
            }
            Self::Garbled { path, .. } => {
                format!("remove {}, then run the same command again", path.display())
            }
            Self::NotOurs { .. } => "set LAB_DIR to the lab's own folder".to_owned(),
            Self::Mounted { mount } => format!("umount {}", mount.display()),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Stream(error) => error.exit(),
            Self::Keyring(error) => error.exit(),
            Self::InitArgument { .. }
            | Self::InitOwn { .. }
            | Self::InitIdentity { .. }
            | Self::InitDocument { .. }
            | Self::NoSuchComponent { .. } => Exit::Usage,
            Self::NoRepository { .. }
            | Self::File { .. }
            | Self::DiskFull { .. }
            | Self::LittleSpace { .. }
            | Self::Missing { .. }
            | Self::NoGo { .. }
            | Self::OldGo { .. }
            | Self::NoCompiler
            | Self::BuildFailed { .. }
            | Self::Incomplete { .. }
            | Self::PortInUse { .. }
            | Self::Died { .. }
            | Self::OtherNetwork { .. }
            | Self::Running { .. }
            | Self::Unreachable { .. }
            | Self::NoForgeUser { .. }
            | Self::Garbled { .. }
            | Self::NotOurs { .. }
            | Self::Mounted { .. } => Exit::Permanent,
            Self::InstallFailed { .. }
            | Self::Busy { .. }
            | Self::Silent { .. }
            | Self::StillRunning { .. }
            | Self::Command { .. }
            | Self::Answer { .. } => Exit::Temporary,
        }
    }
}
