//! Errors of the lab: their messages, their help and their exit statuses.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use documents::{Diagnostic, Exit, Reason};

/// Debian's package starts and enables a registry of its own (`postinst` and `/etc/docker/registry/config.yml` of
/// docker-registry 2.8.2+ds1-1).
const END_REGISTRY: &str = "`sudo systemctl disable --now docker-registry` ends Debian's own registry, which uses \
     port 5000 of every address";

/// Errors of every command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document stream is invalid or cannot be written.
    #[error(transparent)]
    Stream(#[from] documents::Error),
    /// No folder with the components was found.
    #[error("neither {} nor a folder above it contains continuous-integration/components", from.display())]
    NoRepository {
        /// Folder in which the search began.
        from: PathBuf,
    },
    /// An argument of `init` is wrong.
    #[error("{what}: {why}")]
    InitArgument {
        /// Name of the argument.
        what: &'static str,
        /// Reason why the argument is wrong.
        why: String,
    },
    /// `init` would overwrite a file with secrets or recipients of the user's own.
    #[error("{} is not the published file, so it may protect secrets of your own", path.display())]
    InitOwn {
        /// Path of the file.
        path: PathBuf,
    },
    /// The file of identities exists, but every identity in it is published.
    #[error("{} has no identity that is not published", file.display())]
    InitIdentity {
        /// Path of the file.
        file: PathBuf,
    },
    /// A document that `init` changes is missing.
    #[error("{file} is missing, or lacks a field that `init` changes")]
    InitDocument {
        /// Path of the file in the repository.
        file: &'static str,
    },
    /// A secret cannot be created.
    #[error(transparent)]
    Keyring(#[from] secrets::Error),
    /// The command line names an unknown component.
    #[error("there is no component called `{name}`")]
    NoSuchComponent {
        /// Name on the command line.
        name: String,
        /// Names of all components, separated by commas.
        known: String,
    },
    /// An operation on a file failed.
    #[error("cannot {what} {}", path.display())]
    File {
        /// Verb that completes "cannot …", for example `read`.
        what: &'static str,
        /// Path of the file, or name of the program.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A write failed because the disk is full.
    #[error("no space is left on the disk that holds {}", path.display())]
    DiskFull {
        /// Path on that disk.
        path: PathBuf,
    },
    /// The disk has less free space than a build may need.
    #[error("only {free_mib} MiB are free on the disk that holds {}, and a build may need {need_mib}", path.display())]
    LittleSpace {
        /// Path on that disk.
        path: PathBuf,
        /// Free space in MiB.
        free_mib: u64,
        /// Space that a build may need, in MiB.
        need_mib: u64,
    },
    /// The machine lacks programs that the lab cannot install.
    #[error("this machine lacks {}", packages.join(", "))]
    Missing {
        /// Names of the Debian packages that contain the programs.
        packages: Vec<&'static str>,
    },
    /// The documents need something that only root may do.
    #[error("a Cluster takes root, because its machines run containers, and this is user {user}")]
    RootRequired {
        /// Id of the user that runs the lab.
        user: u32,
    },
    /// This user cannot use the installed Nix, for example because the store belongs to root and no daemon runs.
    #[error("Nix cannot open its store for user {user}: {said}")]
    NixUnusable {
        /// Id of the user that runs the lab.
        user: u32,
        /// Message of Nix.
        said: String,
    },
    /// `apt-get` could not install the packages.
    #[error("apt-get failed: {said}")]
    InstallFailed {
        /// Last line of its output.
        said: String,
        /// File with the whole output.
        log: PathBuf,
    },
    /// Go is not installed.
    #[error("there is no `go` on PATH, which builds the components")]
    NoGo {
        /// Lowest version that the module accepts.
        wanted: String,
    },
    /// The installed Go is older than the module's `go` line.
    #[error("this Go is too old: {said}")]
    OldGo {
        /// Message of `go build`.
        said: String,
    },
    /// A C compiler is not installed.
    #[error("there is no C compiler on PATH, which builds the forge's SQLite")]
    NoCompiler,
    /// `go build` could not compile a component.
    #[error("{component} does not build: {said}")]
    BuildFailed {
        /// Name of the component.
        component: &'static str,
        /// Last line of the output.
        said: String,
        /// File with the whole output.
        log: PathBuf,
    },
    /// A component in the cache lacks a program.
    #[error("{} is incomplete: a program of {component} is missing", built.display())]
    Incomplete {
        /// Name of the component.
        component: &'static str,
        /// Folder of the component in the cache.
        built: PathBuf,
    },
    /// Another `lab` holds the lock for longer than the limit.
    #[error("another `lab` has held {} for half an hour", lock.display())]
    Busy {
        /// Path of the lock file.
        lock: PathBuf,
    },
    /// Another process listens on the address of a service.
    #[error("{address}, which the {service} needs, is in use by {}", by.as_deref().unwrap_or("an unknown process"))]
    PortInUse {
        /// Name of the service.
        service: String,
        /// Address that the service needs.
        address: SocketAddr,
        /// Name and id of the other process, if the kernel shows them.
        by: Option<String>,
    },
    /// A service ended too often and is not started again.
    #[error("the {service} does not stay up: {said}")]
    Died {
        /// Name of the service.
        service: String,
        /// Last line of its log.
        said: String,
        /// Path of its log.
        log: PathBuf,
    },
    /// A service runs but does not answer.
    #[error("the {service} has not answered for {seconds} s")]
    Silent {
        /// Name of the service.
        service: String,
        /// Limit that has passed, in seconds.
        seconds: u64,
        /// Path of its log.
        log: PathBuf,
    },
    /// The lab was made for another network than that of the command line.
    #[error("the lab in {} has addresses of {existing}, not of {asked}", directory.display())]
    OtherNetwork {
        /// Folder of the lab.
        directory: PathBuf,
        /// Network of the lab.
        existing: String,
        /// Network on the command line.
        asked: String,
    },
    /// Another user has created the lab. Its files and processes are that user's.
    #[error("the lab in {} belongs to user {owner}, and this is user {user}", directory.display())]
    OtherUser {
        /// Folder of the lab.
        directory: PathBuf,
        /// Id of the user that created the lab.
        owner: u32,
        /// Id of the user that runs the command.
        user: u32,
    },
    /// A lab already runs in this folder.
    #[error("a lab already runs in {}", directory.display())]
    Running {
        /// Folder of the lab.
        directory: PathBuf,
    },
    /// The lab does not end within the limit.
    #[error("the lab (process {pid}) has not ended within {seconds} s")]
    StillRunning {
        /// Id of the lab's process.
        pid: u32,
        /// Limit that has passed, in seconds.
        seconds: u64,
    },
    /// The forge's user cannot reach the forge's files.
    #[error("the user `git`, which runs the forge, may not enter {}", folder.display())]
    FolderForbidden {
        /// Folder without execute permission for other users.
        folder: PathBuf,
    },
    /// The user that runs the forge cannot be created.
    #[error("the forge cannot run as root, and the user `git` cannot be created: {said}")]
    NoForgeUser {
        /// Message of `useradd` on standard error.
        said: String,
    },
    /// A foreign command failed.
    #[error("{command} failed: {said}")]
    Command {
        /// Name of the command, without its arguments.
        command: String,
        /// Last line of its standard error.
        said: String,
    },
    /// A service gave an unexpected answer, or none.
    #[error("{url} answered {answer}")]
    Answer {
        /// URL of the request.
        url: String,
        /// HTTP status, or the reason why there is no answer.
        answer: String,
    },
    /// A state file of the lab is not valid.
    #[error("{} is not a valid state file of this version", path.display())]
    InvalidState {
        /// Path of the file.
        path: PathBuf,
        /// Error of the JSON parser.
        source: serde_json::Error,
    },
    /// `--wipe` would remove a folder that the lab did not create.
    #[error("{} was not made by the lab", directory.display())]
    NotOurs {
        /// Path of the folder.
        directory: PathBuf,
    },
    /// Neither a person nor `--yes` has confirmed the removal.
    #[error("the removal of {} is not confirmed, so nothing was changed", directory.display())]
    NotConfirmed {
        /// Path of the folder.
        directory: PathBuf,
    },
    /// `--wipe` would remove files of another file system.
    #[error("{} is still mounted", mount.display())]
    Mounted {
        /// Mount point inside the lab's folder.
        mount: PathBuf,
    },
}

impl Diagnostic for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Stream(error) => error.reason(),
            Self::NoRepository { .. } => Reason::NoRepository,
            Self::InitArgument { .. }
            | Self::InitDocument { .. }
            | Self::NoSuchComponent { .. }
            | Self::NotConfirmed { .. } => Reason::Invalid,
            Self::InitOwn { .. } | Self::InitIdentity { .. } => Reason::WouldOverwrite,
            Self::Keyring(error) => error.reason(),
            Self::File { .. } | Self::FolderForbidden { .. } => Reason::FileFailed,
            Self::DiskFull { .. } | Self::LittleSpace { .. } => Reason::DiskFull,
            Self::Missing { .. }
            | Self::NoGo { .. }
            | Self::OldGo { .. }
            | Self::NoCompiler
            | Self::NixUnusable { .. } => Reason::ToolMissing,
            Self::RootRequired { .. } => Reason::RootRequired,
            Self::InstallFailed { .. } | Self::Command { .. } => Reason::CommandFailed,
            Self::BuildFailed { .. } | Self::Incomplete { .. } => Reason::BuildFailed,
            Self::Busy { .. } => Reason::Busy,
            Self::PortInUse { .. } => Reason::PortInUse,
            Self::Died { .. } => Reason::Died,
            Self::Silent { .. } => Reason::Unreachable,
            Self::OtherNetwork { .. } => Reason::OtherNetwork,
            Self::OtherUser { .. } => Reason::OtherUser,
            Self::Running { .. } => Reason::AlreadyRunning,
            Self::StillRunning { .. } => Reason::TimedOut,
            Self::NoForgeUser { .. } => Reason::NoForgeUser,
            Self::Answer { .. } => Reason::InvalidResponse,
            Self::InvalidState { .. } => Reason::InvalidState,
            Self::NotOurs { .. } => Reason::Conflict,
            Self::Mounted { .. } => Reason::Mounted,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Stream(error) => return error.help(),
            Self::NoRepository { .. } => {
                "run the command inside the repository, or set LAB_COMPONENTS to the folder of the components".to_owned()
            }
            Self::InitArgument { .. } => "`./tasks/init --help` describes the arguments".to_owned(),
            Self::InitDocument { .. } => {
                "run the command in a project made from the template, or in a clone of this repository".to_owned()
            }
            Self::InitOwn { .. } => {
                "nothing was touched, because every key that derives from the old root would become useless; \
                 to rotate a key, increase its generation in the Project"
                    .to_owned()
            }
            Self::InitIdentity { .. } => {
                "name another file with --identity; an absent file is created".to_owned()
            }
            Self::Keyring(error) => return error.help(),
            Self::NotConfirmed { .. } => {
                "answer `y` on a terminal, or add `--yes`; without `--wipe` the state stays".to_owned()
            }
            Self::NoSuchComponent { known, .. } => format!("the components are {known}"),
            Self::File { .. } => "correct the cause, then run the same command again".to_owned(),
            Self::DiskFull { .. } | Self::LittleSpace { .. } => {
                "free space (`go clean -cache` removes files that Go can build again), or set LAB_CACHE and LAB_DIR to folders on another disk".to_owned()
            }
            Self::Missing { packages } => installation(packages),
            Self::NixUnusable { .. } => {
                "install Nix for this user alone (https://nixos.org/download), or leave out the Artifacts that Nix builds"
                    .to_owned()
            }
            Self::RootRequired { .. } => {
                "run the command as root, or without the documents of kind Cluster: the forge, the registry, \
                 the object store and Hetzner's API need no root, for example `lab up project | vcs-bootstrap apply`"
                    .to_owned()
            }
            Self::InstallFailed { log, .. } | Self::BuildFailed { log, .. } => {
                format!("read the whole output in {}", log.display())
            }
            Self::NoGo { wanted } => {
                format!("install Go {wanted} or newer (https://go.dev/dl), and put it on PATH")
            }
            Self::OldGo { .. } => {
                "install that version (https://go.dev/dl), and put it first on PATH".to_owned()
            }
            Self::NoCompiler => "apt-get install gcc libc6-dev".to_owned(),
            Self::Incomplete { built, .. } => {
                format!("remove {}, then run the same command again", built.display())
            }
            Self::Busy { .. } => "wait for the other `lab`, or end it".to_owned(),
            Self::PortInUse { service, .. } if service == "registry" => format!(
                "end that process, or set LAB_NETWORK to other addresses, such as 127.78.0.0/16; {END_REGISTRY}"
            ),
            Self::PortInUse { .. } => {
                "end that process, or set LAB_NETWORK to other addresses, such as 127.78.0.0/16"
                    .to_owned()
            }
            Self::Died { log, .. } => {
                format!("read the reason in {}, then run `lab down` and `lab up`", log.display())
            }
            Self::Silent { log, .. } => {
                format!("read {}, then run the same command again", log.display())
            }
            Self::OtherNetwork { existing, .. } => {
                format!("set LAB_NETWORK={existing}, or delete that lab with `lab down --wipe`")
            }
            Self::OtherUser { .. } => {
                "run the command as that user, or set LAB_DIR to another folder, and LAB_NETWORK to other addresses \
                 (such as 127.78.0.0/16) while that lab runs"
                    .to_owned()
            }
            Self::Running { .. } => "run `lab status` to see it".to_owned(),
            Self::StillRunning { .. } => {
                "run `lab down` again, which continues to wait".to_owned()
            }
            Self::FolderForbidden { folder } => format!(
                "chmod o+x {}, or set LAB_DIR and LAB_CACHE to folders that every user may enter",
                folder.display()
            ),
            Self::NoForgeUser { .. } => {
                "create the user (useradd --system git), or run the lab as a user other than root"
                    .to_owned()
            }
            Self::Command { .. } | Self::Answer { .. } => {
                "run the same command again; `lab status` names the logs".to_owned()
            }
            Self::InvalidState { path, .. } => {
                format!("remove {}, then run the same command again", path.display())
            }
            Self::NotOurs { .. } => "set LAB_DIR to a folder that the lab created".to_owned(),
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
            | Self::NoSuchComponent { .. }
            | Self::NotConfirmed { .. } => Exit::Usage,
            Self::NoRepository { .. }
            | Self::File { .. }
            | Self::DiskFull { .. }
            | Self::LittleSpace { .. }
            | Self::Missing { .. }
            | Self::RootRequired { .. }
            | Self::NixUnusable { .. }
            | Self::NoGo { .. }
            | Self::OldGo { .. }
            | Self::NoCompiler
            | Self::BuildFailed { .. }
            | Self::Incomplete { .. }
            | Self::PortInUse { .. }
            | Self::Died { .. }
            | Self::OtherNetwork { .. }
            | Self::OtherUser { .. }
            | Self::Running { .. }
            | Self::FolderForbidden { .. }
            | Self::NoForgeUser { .. }
            | Self::InvalidState { .. }
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

/// Returns the help for a machine that lacks `packages`, on which the lab cannot install them.
fn installation(packages: &[&str]) -> String {
    let names = packages.join(" ");
    let help =
        format!("install them; on Debian: sudo apt-get install --no-install-recommends {names}");
    if packages.contains(&"docker-registry") {
        return format!("{help}; afterwards {END_REGISTRY}");
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_about_the_registry_names_what_ends_that_of_debian() {
        let in_use = |service: &str| Error::PortInUse {
            service: service.to_owned(),
            address: ([127, 77, 0, 1], 5000).into(),
            by: None,
        };
        for (error, is_named) in [
            (Error::Missing { packages: vec!["age", "docker-registry"] }, true),
            (Error::Missing { packages: vec!["age"] }, false),
            (in_use("registry"), true),
            (in_use("forge"), false),
        ] {
            let help = error.help().unwrap_or_default();
            let command = "systemctl disable --now docker-registry";
            assert_eq!(help.contains(command), is_named, "{error}: {help}");
        }
    }
}
