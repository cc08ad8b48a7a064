//! What the machine must have that the lab does not build: installed when it may be, and otherwise
//! said how.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::place::Place;
use crate::{command, files};

/// A program of the machine's own: what must be there, and the Debian package that brings it.
#[derive(Debug)]
struct Tool {
    program: &'static str,
    package: &'static str,
    /// The kinds of documents that need it; none: all do.
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
];

/// What keeps packages from starting services of their own, for as long as it is there.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What a store of Nix has from its beginning.
const NIX_MADE: &str = "/nix/var/nix/db/schema";

/// Where the plugins are that give pods their addresses: the folder of `CNI_PATH` that has them, or
/// Debian's.
pub(crate) fn cni() -> PathBuf {
    let given = env::var_os("CNI_PATH").unwrap_or_default();
    let folder = env::split_paths(&given).find(|it| it.join("host-local").exists());
    folder.unwrap_or_else(|| "/usr/lib/cni".into())
}

/// Where a program is, if the machine has it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps some out of the way of users.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), cni()]);
    folders.map(|it| it.join(program)).find(|it| {
        fs::metadata(it).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    })
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What is missing for documents of `kinds`, by its Debian package.
pub(crate) fn missing(kinds: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let needed = TOOLS
        .iter()
        .filter(|it| it.needed_by.is_empty() || it.needed_by.iter().any(|it| kinds(it)));
    let mut packages: Vec<_> =
        needed.filter(|it| find(it.program).is_none()).map(|it| it.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Sees to it that the machine has what documents of `kinds` need.
pub(crate) fn ensure(place: &Place, kinds: impl Fn(&str) -> bool) -> Result<(), Error> {
    programs(place, &kinds)?;
    if kinds("Artifact") { store() } else { Ok(()) }
}

/// Nix's store, which Nix makes when it first runs: of two that do so at once, one gives up.
fn store() -> Result<(), Error> {
    if !is_root() || Path::new(NIX_MADE).exists() {
        return Ok(());
    }
    let mut init = Command::new("nix-store");
    init.arg("--init");
    command::run(init, "nix-store --init").map(drop)
}

fn programs(place: &Place, kinds: impl Fn(&str) -> bool) -> Result<(), Error> {
    let packages = missing(&kinds);
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() || find("apt-get").is_none() {
        return Err(Error::Missing { packages });
    }
    documents::check_interrupt()?;
    let step = documents::step("-", "install");
    let log = place.cache.join("logs/install.log");
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

/// Keeps packages from starting their services: Debian's registry would take every address.
#[derive(Debug)]
struct Quiet {
    ours: bool,
}

impl Quiet {
    fn new() -> Result<Self, Error> {
        let policy = Path::new(POLICY);
        let ours = !policy.exists();
        if ours {
            files::settle(
                policy,
                b"#!/bin/sh\n# made by `lab`, for one installation\nexit 101\n",
                0o755,
            )?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// The compilers, which the lab never installs by itself: one chooses them, with their version.
pub(crate) fn compilers(go: &str, c: bool) -> Result<(), Error> {
    if find("go").is_none() {
        return Err(Error::NoGo { wanted: go.to_owned() });
    }
    if c && find("gcc").is_none() && find("cc").is_none() {
        return Err(Error::NoCompiler);
    }
    Ok(())
}
