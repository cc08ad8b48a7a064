//! Commands of Go: the environment in which the lab builds components, chosen so that a build takes little CPU time and
//! gives the same bytes everywhere.

use std::env;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::component::{C_FLAGS, Component};

/// Heap of a compiler or linker at which its garbage collector begins to run. Only the largest packages reach it.
const HEAP_MIB: u64 = 1024;

/// Memory that must be available for each core, so that every core can run a compiler with such a heap.
const MEMORY_MIB_PER_CORE: u64 = 2 * HEAP_MIB;

/// Cores up to which each compiler gets one thread. Packages are compiled side by side, which few cores keep busy.
const FEW_CORES: u64 = 4;

/// Files with the memory limit of a container, of cgroups version 2 and 1.
const LIMITS: &[&str] =
    &["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Returns `go` with this subcommand and the environment of the component's build. `components` is the folder of all
/// components.
pub(crate) fn command(subcommand: &str, component: &Component, components: &Path) -> Command {
    let mut go = Command::new("go");
    go.arg(subcommand).current_dir(component.folder(components)).stdin(Stdio::null());
    go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
    go.env("CGO_ENABLED", if component.cgo { "1" } else { "0" }).env("CGO_CFLAGS", C_FLAGS);
    go
}

/// Lets compilers use memory instead of CPU time. Variables that the user has set stay as they are.
///
/// Measured on two cores with Go 1.26: building etcd takes 80 s of CPU time with Go's defaults, 58 s without garbage
/// collection, and 54 s with one thread for each compiler as well.
pub(crate) fn tune(go: &mut Command) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let is_set = |name: &str| env::var_os(name).is_some();
    go.envs(tuning(cores, available_mib(), is_set));
}

fn tuning(
    cores: u64,
    available_mib: Option<u64>,
    is_set: impl Fn(&str) -> bool,
) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    let has_memory = available_mib.is_some_and(|mib| mib >= cores * MEMORY_MIB_PER_CORE);
    if has_memory && !is_set("GOGC") && !is_set("GOMEMLIMIT") {
        // The limit starts the collector that `off` has stopped (https://go.dev/doc/gc-guide#Memory_limit).
        variables.push(("GOGC", "off".to_owned()));
        variables.push(("GOMEMLIMIT", format!("{HEAP_MIB}MiB")));
    }
    if cores <= FEW_CORES && !is_set("GOMAXPROCS") {
        variables.push(("GOMAXPROCS", "1".to_owned()));
        // Number of packages that are compiled at once. By default it is the number of threads of one compiler.
        variables.push(("GOFLAGS", format!("-p={cores}")));
    }
    variables
}

/// Returns the memory that is available on this machine and in this container.
fn available_mib() -> Option<u64> {
    let information = fs::read_to_string("/proc/meminfo").ok()?;
    let line = information.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let limits =
        LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.map(|bytes: u64| bytes / (1024 * 1024)).chain([kib / 1024]).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &'static str, value: &str) -> (&'static str, String) {
        (name, value.to_owned())
    }

    #[test]
    fn compilers_use_memory_that_every_core_has_and_one_thread_on_few_cores() {
        let none = |_: &str| false;
        let memory = [variable("GOGC", "off"), variable("GOMEMLIMIT", "1024MiB")];
        let thread = [variable("GOMAXPROCS", "1"), variable("GOFLAGS", "-p=2")];

        assert_eq!(tuning(2, Some(4096), none), [memory.clone(), thread.clone()].concat());
        assert_eq!(tuning(2, Some(4095), none), thread);
        assert_eq!(tuning(2, None, none), thread);
        assert_eq!(tuning(5, Some(16_384), none), memory);
        assert_eq!(tuning(16, Some(16_384), none), []);
    }

    #[test]
    fn variables_of_the_user_have_priority() {
        for (set, names) in [
            (["GOGC"], ["GOMAXPROCS", "GOFLAGS"]),
            (["GOMEMLIMIT"], ["GOMAXPROCS", "GOFLAGS"]),
            (["GOMAXPROCS"], ["GOGC", "GOMEMLIMIT"]),
        ] {
            let variables = tuning(2, Some(8192), |name| set.contains(&name));
            let changed: Vec<_> = variables.iter().map(|(name, _)| *name).collect();
            assert_eq!(changed, names, "{set:?}");
        }
    }
}
