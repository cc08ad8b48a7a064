//! Programs that the machine must have and the lab does not build. As root on Debian the lab
//! installs them; otherwise an error names the packages.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::paths::LabPaths;
use crate::{command, files};

/// A required program and the Debian package that contains it.
#[derive(Debug)]
struct Tool {
    program: &'static str,
    package: &'static str,
    /// Kinds of documents that need the program; empty if every lab needs it.
    needed_by: &'static [&'static str],
}

const fn tool(
    program: &'static str,
    package: &'static str,
    needed_by: &'static [&'static str],
) -> Tool {
    Tool { program, package, needed_by }
}

const TOOLS: &[Tool] = &[
    tool("docker-registry", "docker-registry", &[]),
    tool("git", "git", &[]),
    tool("jq", "jq", &[]),
    tool("setsid", "util-linux", &[]),
    tool("age", "age", &[]),
    tool("nix", "nix-bin", &["Artifact"]),
    tool("gcc", "gcc", &["Repository", "Cluster"]),
    tool("tar", "tar", &["Cluster"]),
    tool("containerd", "containerd", &["Cluster"]),
    tool("crun", "crun", &["Cluster"]),
    tool("host-local", "containernetworking-plugins", &["Cluster"]),
    tool("ip", "iproute2", &["Cluster"]),
    tool("unshare", "util-linux", &["Cluster"]),
    tool("python3", "python3", &["Cluster"]), // runs the user data of servers
    tool("xz", "xz-utils", &["Cluster"]),     // compresses the image of Talos
];

/// Script that keeps Debian packages from starting their services while they are installed
/// (<https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// File that exists once Nix has created its store.
const NIX_SCHEMA: &str = "/nix/var/nix/db/schema";

/// Returns the folder of the CNI plugins, which give pods their addresses: the first folder in
/// `CNI_PATH` that has them, or Debian's.
pub(crate) fn cni() -> PathBuf {
    let given = env::var_os("CNI_PATH").unwrap_or_default();
    let folder = env::split_paths(&given).find(|folder| folder.join("host-local").exists());
    folder.unwrap_or_else(|| "/usr/lib/cni".into())
}

/// Returns the path of a program, if the machine has it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian's PATH of an ordinary user lacks the folders `sbin`.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), cni()]);
    folders.map(|folder| folder.join(program)).find(|path| {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// Returns the id of the user that runs this process.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(crate) fn is_root() -> bool {
    user() == 0
}

/// Checks that this user may run what documents of `kinds` need. Only the machines of a Cluster take root: they
/// mount file systems, add network interfaces, and run containers as several users.
pub(crate) fn check_root(kinds: impl Fn(&str) -> bool) -> Result<(), Error> {
    if kinds("Cluster") && !is_root() {
        return Err(Error::RootRequired { user: user() });
    }
    Ok(())
}

/// Returns the Debian packages that documents of `kinds` need and the machine lacks.
pub(crate) fn missing(kinds: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let needed = TOOLS
        .iter()
        .filter(|tool| tool.needed_by.is_empty() || tool.needed_by.iter().any(|kind| kinds(kind)));
    let mut packages: Vec<_> =
        needed.filter(|tool| find(tool.program).is_none()).map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs the programs that documents of `kinds` need, and creates Nix's store for artifacts.
pub(crate) fn ensure(paths: &LabPaths, kinds: impl Fn(&str) -> bool) -> Result<(), Error> {
    programs(paths, &kinds)?;
    if kinds("Artifact") { store() } else { Ok(()) }
}

/// Creates Nix's store, or checks that this user can open it. Nix creates the store at its first run, and of two first
/// runs at the same time one fails.
fn store() -> Result<(), Error> {
    if is_root() && Path::new(NIX_SCHEMA).exists() {
        return Ok(());
    }
    let mut init = Command::new("nix-store");
    init.arg("--init");
    match command::run(init, "nix-store --init") {
        Err(Error::Command { said, .. }) if !is_root() => {
            let said = said.trim_start_matches("error: ").to_owned();
            Err(Error::NixUnusable { user: user(), said })
        }
        done => done.map(drop),
    }
}

fn programs(paths: &LabPaths, kinds: impl Fn(&str) -> bool) -> Result<(), Error> {
    let packages = missing(&kinds);
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() || find("apt-get").is_none() {
        return Err(Error::Missing { packages });
    }
    documents::check_interrupt()?;
    let step = documents::step("-", "install");
    let log = paths.cache.join("logs/install.log");
    let policy = Quiet::new()?;
    apt(&["update", "-qq"], &log)?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    apt(&[&install, packages.as_slice()].concat(), &log)?;
    drop(policy);
    let left = missing(&kinds);
    if !left.is_empty() {
        return Err(Error::Missing { packages: left });
    }
    step.done(packages.join(", "));
    Ok(())
}

fn apt(arguments: &[&str], log: &Path) -> Result<(), Error> {
    let mut apt = Command::new("apt-get");
    apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    apt.stdin(Stdio::null()).stdout(files::log(log)?).stderr(files::log(log)?);
    let status = apt.status().map_err(files::cannot("start", Path::new("apt-get")))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::InstallFailed { said: files::last_line(log), log: log.to_owned() })
}

/// Keeps packages from starting their services while the guard lives, because Debian's registry
/// would listen on every address.
#[derive(Debug)]
struct Quiet {
    created: bool,
}

impl Quiet {
    fn new() -> Result<Self, Error> {
        let policy = Path::new(POLICY);
        let created = !policy.exists();
        if created {
            files::settle(
                policy,
                b"#!/bin/sh\n# made by `lab`, for one installation\nexit 101\n",
                0o755,
            )?;
        }
        Ok(Self { created })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.created {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Checks that the compilers exist. The lab never installs them, because users choose their
/// version.
pub(crate) fn compilers(go: &str, c: bool) -> Result<(), Error> {
    if find("go").is_none() {
        return Err(Error::NoGo { wanted: go.to_owned() });
    }
    if c && find("gcc").is_none() && find("cc").is_none() {
        return Err(Error::NoCompiler);
    }
    Ok(())
}
