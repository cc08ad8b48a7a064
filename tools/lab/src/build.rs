//! From Go modules to programs in the cache: one component at a time, wholly or not at all.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Error;
use crate::component::Component;
use crate::files;
use crate::install;
use crate::lock;
use crate::place::Place;

/// How often a long build says how far it is.
const NEWS: Duration = Duration::from_secs(20);

/// What must be free before a build starts. Kubernetes is the largest: its programs take 0.4 GiB,
/// and what the compiler keeps of it several times that.
const FREE_MIB: u64 = 4096;

/// Where a build works until it is whole, followed by its process: a compiler that outlived a `lab`
/// that was killed must not write into the next one's.
const UNFINISHED: &str = ".unfinished-";

/// Builds those of `components` that are not in the cache, and links all of their programs.
pub(crate) fn build(place: &Place, components: &[&Component]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for component in components {
        let key = component.key(&place.components)?;
        let built = place.cache.join("components").join(component.name).join(&key);
        if built.is_dir() {
            documents::detail(component.name, format_args!("built: {}", built.display()));
            link(place, component, &built)?;
        } else {
            missing.push((component, built));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let _alone = lock::exclusive(&place.cache.join("build.lock"))?;
    for (component, built) in missing {
        if !built.is_dir() {
            // Otherwise another build has made it meanwhile.
            one(place, component, &built)?;
        }
        link(place, component, &built)?;
    }
    Ok(())
}

fn one(place: &Place, component: &Component, built: &Path) -> Result<(), Error> {
    documents::check_interrupt()?;
    let module = place.components.join(component.name);
    let wanted = go_version(&module)?;
    install::compilers(&wanted, component.cgo)?;
    let parent = built.parent().unwrap_or(&place.cache);
    files::folder(parent)?;
    enough_space(parent)?;
    tidy(parent)?;
    let unfinished = parent.join(format!("{UNFINISHED}{}", std::process::id()));
    files::folder(&unfinished)?;

    let step = documents::step(component.name, "build");
    let log = place.cache.join("logs").join(component.name).with_extension("log");
    let compiled = compile(component, &module, &unfinished, &log);
    let whole = compiled.and_then(|packages| {
        assets(component, &module, &unfinished)?;
        fs::rename(&unfinished, built).map_err(files::cannot("write", built))?;
        Ok(packages)
    });
    match whole {
        Ok(packages) => {
            step.done(format_args!("{packages} packages compiled"));
            Ok(())
        }
        Err(error) => {
            files::remove(&unfinished)?;
            Err(error)
        }
    }
}

/// Removes what builds that were killed have left.
fn tidy(folder: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(files::cannot("read", folder))?;
    let left =
        entries.flatten().filter(|it| it.file_name().to_string_lossy().starts_with(UNFINISHED));
    left.map(|it| it.path()).try_for_each(|it| files::remove(&it))
}

/// How many packages it had to compile.
fn compile(component: &Component, module: &Path, to: &Path, log: &Path) -> Result<usize, Error> {
    let mut go = Command::new("go");
    go.args(["build", "-v"]).args(component.flags());
    // A folder, so that every program keeps its own name.
    go.arg("-o").arg(format!("{}/", to.display())).args(component.packages);
    go.current_dir(module).env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
    go.env("CGO_ENABLED", if component.cgo { "1" } else { "0" });
    files::remove(log)?;
    go.stdin(Stdio::null()).stdout(files::log(log)?).stderr(files::log(log)?);
    // A group of its own, which is ended as one: the compilers that it starts, too.
    let mut child = go.process_group(0).spawn().map_err(files::cannot("start", Path::new("go")))?;
    let status = watched(&mut child, component, log)?;
    if status {
        return Ok(lines(log).count());
    }
    let said: Vec<_> = lines(log).collect();
    let says = |text: &str| said.iter().any(|line| line.contains(text));
    Err(match said.iter().find(|it| it.contains("requires go >=")) {
        Some(line) => Error::OldGo { said: line.clone() },
        None if says("no space left on device") => Error::DiskFull { path: to.to_owned() },
        None => {
            let said = said.last().cloned().unwrap_or_default();
            Error::BuildFailed { component: component.name, log: log.to_owned(), said }
        }
    })
}

/// Waits for the build, says how far it is, and ends it when somebody asks for that.
fn watched(child: &mut Child, component: &Component, log: &Path) -> Result<bool, Error> {
    let (began, mut next) = (Instant::now(), NEWS);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) => thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(files::cannot("wait for", Path::new("go"))(error)),
        }
        if let Err(interrupted) = documents::check_interrupt() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::TERM); // it may have ended just now
            }
            child.wait().map_err(files::cannot("wait for", Path::new("go")))?;
            return Err(interrupted.into());
        }
        if began.elapsed() >= next {
            let (packages, seconds) = (lines(log).count(), next.as_secs());
            let news = format_args!("building: {packages} packages compiled after {seconds} s");
            documents::note(component.name, news);
            next += NEWS;
        }
    }
}

fn lines(log: &Path) -> impl Iterator<Item = String> {
    let lines = File::open(log).map(|it| BufReader::new(it).lines()).into_iter().flatten();
    lines.map_while(Result::ok).filter(|it| !it.starts_with("go: downloading"))
}

/// Copies what the program needs at run time beside it: the module cache may be emptied.
fn assets(component: &Component, module: &Path, to: &Path) -> Result<(), Error> {
    let Some((name, folders)) = component.assets else { return Ok(()) };
    let mut go = Command::new("go");
    go.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", name]).current_dir(module);
    go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
    let said = go.output().map_err(files::cannot("start", Path::new("go")))?;
    let source = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    for folder in folders {
        let (from, to) = (source.join(folder), to.join("static").join(folder));
        copy(&from, &to).map_err(files::cannot("copy", &from))?;
    }
    Ok(())
}

/// The module cache is read-only, and what is copied with its permissions could not be removed.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        fs::write(to, fs::read(from)?)?;
        return fs::set_permissions(to, fs::Permissions::from_mode(0o644));
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// Makes `bin` name the programs in `built`.
fn link(place: &Place, component: &Component, built: &Path) -> Result<(), Error> {
    let bin = place.cache.join("bin");
    files::folder(&bin)?;
    for (program, called) in component.programs {
        let link = bin.join(called);
        if !built.join(program).is_file() {
            // Somebody has been tidying up inside the cache.
            return Err(Error::Incomplete { component: component.name, built: built.to_owned() });
        }
        // Relative, so that the cache may be kept and put back somewhere else.
        let target = built.strip_prefix(&place.cache).unwrap_or(built).join(program);
        let target = Path::new("..").join(target);
        if fs::read_link(&link).is_ok_and(|it| it == target) {
            continue;
        }
        let new = bin.join(format!(".{called}.new"));
        files::remove(&new)?;
        let linked = symlink(&target, &new).and_then(|()| fs::rename(&new, &link));
        linked.map_err(files::cannot("link", &link))?;
    }
    Ok(())
}

/// What the module's `go` line asks for.
fn go_version(module: &Path) -> Result<String, Error> {
    let path = module.join("go.mod");
    let text = fs::read_to_string(&path).map_err(files::cannot("read", &path))?;
    let version = text.lines().find_map(|line| line.strip_prefix("go "));
    Ok(version.unwrap_or("1.26").trim().to_owned())
}

fn enough_space(folder: &Path) -> Result<(), Error> {
    let disk =
        rustix::fs::statvfs(folder).map_err(|it| files::cannot("look at", folder)(it.into()))?;
    let free_mib = disk.f_bavail.saturating_mul(disk.f_frsize) / (1024 * 1024);
    if free_mib < FREE_MIB {
        return Err(Error::LittleSpace { path: folder.to_owned(), free_mib, need_mib: FREE_MIB });
    }
    Ok(())
}
