//! Builds the components: Go modules become programs in the cache, one component at a time. A
//! build that fails or is killed leaves no program behind.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Error;
use crate::component::Component;
use crate::files;
use crate::go;
use crate::install;
use crate::lock;
use crate::paths::LabPaths;

/// Interval between progress lines of a long build.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(20);

/// Free disk space that a build needs before it starts. Kubernetes is the largest component: its
/// programs take 0.4 GiB, and the Go compiler's own cache takes several times as much.
const FREE_MIB: u64 = 4096;

/// Prefix of the folder of an unfinished build; the process id follows. Each process has its own
/// folder, because a compiler that outlives a killed `lab` must not write into the folder of the
/// next `lab`.
const UNFINISHED: &str = ".unfinished-";

/// Builds those of `components` that neither the cache nor `LAB_BUILT` has, and links all of their programs.
pub(crate) fn build(paths: &LabPaths, components: &[&Component]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for component in components {
        let built = match given(paths, component) {
            Some(folder) => folder,
            None => cached(paths, component)?,
        };
        if built.is_dir() {
            documents::detail(component.name, format_args!("built: {}", built.display()));
            link(paths, component, &built)?;
        } else {
            missing.push((component, built));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let _lock = lock::exclusive(&paths.cache.join("build.lock"))?;
    let count = missing.len();
    for (index, (component, built)) in missing.into_iter().enumerate() {
        if !built.is_dir() {
            // Checked again under the lock: another `lab` may have built the component meanwhile.
            let place = format!("component {} of {count}", index + 1);
            build_one(paths, component, &built, &place)?;
        }
        link(paths, component, &built)?;
    }
    Ok(())
}

/// Returns the folder of a component's programs in `LAB_BUILT`, if that has all of them.
fn given(paths: &LabPaths, component: &Component) -> Option<PathBuf> {
    let folder = paths.built.as_ref()?.join(component.name);
    let has = |(program, _): &(&str, _)| folder.join(program).is_file();
    component.programs.iter().all(has).then_some(folder)
}

/// Returns the folder of a component's programs in the cache.
fn cached(paths: &LabPaths, component: &Component) -> Result<PathBuf, Error> {
    let key = component.key(&paths.components)?;
    Ok(paths.cache.join("components").join(component.name).join(key))
}

/// Builds one component in a folder of its own and renames the folder when the build is complete.
/// `place` says which of the components it is, for example `component 2 of 6`.
fn build_one(
    paths: &LabPaths,
    component: &Component,
    built: &Path,
    place: &str,
) -> Result<(), Error> {
    documents::check_interrupt()?;
    let wanted = go_version(&component.folder(&paths.components))?;
    install::compilers(&wanted, component.cgo)?;
    let parent = built.parent().unwrap_or(&paths.cache);
    files::folder(parent)?;
    enough_space(parent)?;
    remove_unfinished(parent)?;
    let unfinished = parent.join(format!("{UNFINISHED}{}", std::process::id()));
    files::folder(&unfinished)?;

    documents::note(component.name, format_args!("building {place}"));
    let step = documents::step(component.name, "build");
    let log = paths.cache.join("logs").join(component.name).with_extension("log");
    let compiled = compile(component, &paths.components, (&unfinished, &log), place);
    let whole = compiled.and_then(|packages| {
        assets(component, &paths.components, &unfinished)?;
        fs::rename(&unfinished, built).map_err(files::cannot("write", built))?;
        Ok(packages)
    });
    match whole {
        Ok(packages) => {
            step.done(format_args!("{packages} packages compiled, {place}"));
            Ok(())
        }
        Err(error) => {
            files::remove(&unfinished)?;
            Err(error)
        }
    }
}

/// Removes the folders of builds that were killed.
fn remove_unfinished(folder: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(files::cannot("read", folder))?;
    let unfinished = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
    unfinished.map(|entry| entry.path()).try_for_each(|path| files::remove(&path))
}

/// Runs `go build` and returns the number of packages that Go compiled.
fn compile(
    component: &Component,
    components: &Path,
    (to, log): (&Path, &Path),
    place: &str,
) -> Result<usize, Error> {
    let mut go = go::command("build", component, components);
    go::tune(&mut go);
    go.arg("-v").args(component.flags());
    // The slash makes `go` write every program under its own name into this folder.
    go.arg("-o").arg(format!("{}/", to.display())).args(component.packages);
    files::remove(log)?;
    go.stdout(files::log(log)?).stderr(files::log(log)?);
    // In a process group of its own, so that one signal also ends the compilers that `go` starts.
    let mut child = go.process_group(0).spawn().map_err(files::cannot("start", Path::new("go")))?;
    let succeeded = wait_for_build(&mut child, component, log, place)?;
    if succeeded {
        return Ok(lines(log).count());
    }
    let said: Vec<_> = lines(log).collect();
    let says = |text: &str| said.iter().any(|line| line.contains(text));
    Err(match said.iter().find(|line| line.contains("requires go >=")) {
        Some(line) => Error::OldGo { said: line.clone() },
        None if says("no space left on device") => Error::DiskFull { path: to.to_owned() },
        None => {
            let said = said.last().cloned().unwrap_or_default();
            Error::BuildFailed { component: component.name, log: log.to_owned(), said }
        }
    })
}

/// Waits for the build, reports progress, and ends the build when the user interrupts `lab`.
fn wait_for_build(
    child: &mut Child,
    component: &Component,
    log: &Path,
    place: &str,
) -> Result<bool, Error> {
    let (began, mut next) = (Instant::now(), PROGRESS_INTERVAL);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) => thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(files::cannot("wait for", Path::new("go"))(error)),
        }
        if let Err(interrupted) = documents::check_interrupt() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::TERM); // the group may have just ended
            }
            child.wait().map_err(files::cannot("wait for", Path::new("go")))?;
            return Err(interrupted.into());
        }
        if began.elapsed() >= next {
            let (packages, seconds) = (lines(log).count(), next.as_secs());
            let progress = format_args!("{place}: {packages} packages compiled after {seconds} s");
            documents::note(component.name, progress);
            next += PROGRESS_INTERVAL;
        }
    }
}

fn lines(log: &Path) -> impl Iterator<Item = String> {
    let lines = File::open(log).map(|file| BufReader::new(file).lines()).into_iter().flatten();
    lines.map_while(Result::ok).filter(|line| !line.starts_with("go: downloading"))
}

/// Copies the files that the program needs at run time next to it, because Go's module cache may
/// be emptied.
fn assets(component: &Component, components: &Path, to: &Path) -> Result<(), Error> {
    let Some((name, folders)) = component.assets else { return Ok(()) };
    let mut go = go::command("list", component, components);
    go.args(["-mod=readonly", "-m", "-f", "{{.Dir}}", name]);
    let said = go.output().map_err(files::cannot("start", Path::new("go")))?;
    let source = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    for folder in folders {
        let (from, to) = (source.join(folder), to.join("static").join(folder));
        copy(&from, &to).map_err(files::cannot("copy", &from))?;
    }
    Ok(())
}

/// Copies a folder without its permissions: Go's module cache is read-only, and a read-only copy
/// could not be removed.
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

/// Links the programs in `built` from the folder `bin`.
fn link(paths: &LabPaths, component: &Component, built: &Path) -> Result<(), Error> {
    let bin = paths.cache.join("bin");
    files::folder(&bin)?;
    for (program, called) in component.programs {
        let link = bin.join(called);
        if !built.join(program).is_file() {
            // A user has removed files inside the cache.
            return Err(Error::Incomplete { component: component.name, built: built.to_owned() });
        }
        // A link into the cache is relative, so that a CI cache can be restored at another path.
        let target = built.strip_prefix(&paths.cache).unwrap_or(built).join(program);
        let target = Path::new("..").join(target);
        if fs::read_link(&link).is_ok_and(|existing| existing == target) {
            continue;
        }
        let new = bin.join(format!(".{called}.new"));
        files::remove(&new)?;
        let linked = symlink(&target, &new).and_then(|()| fs::rename(&new, &link));
        linked.map_err(files::cannot("link", &link))?;
    }
    Ok(())
}

/// Returns the Go version in the module's `go` line.
fn go_version(module: &Path) -> Result<String, Error> {
    let path = module.join("go.mod");
    let text = fs::read_to_string(&path).map_err(files::cannot("read", &path))?;
    let version = text.lines().find_map(|line| line.strip_prefix("go "));
    Ok(version.unwrap_or("1.26").trim().to_owned())
}

fn enough_space(folder: &Path) -> Result<(), Error> {
    let disk = rustix::fs::statvfs(folder)
        .map_err(|error| files::cannot("read the free space of", folder)(error.into()))?;
    let free_mib = disk.f_bavail.saturating_mul(disk.f_frsize) / (1024 * 1024);
    if free_mib < FREE_MIB {
        return Err(Error::LittleSpace { path: folder.to_owned(), free_mib, need_mib: FREE_MIB });
    }
    Ok(())
}
