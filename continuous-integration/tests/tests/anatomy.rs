//! Every program has the same files, so that a reader of one program finds everything in the others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use repository_tests::{dependencies, root};
use testing::Test;

const PROGRAMS: [&str; 5] =
    ["artifact-attest", "data-drain", "flux-seed", "talos-provision", "vcs-bootstrap"];

/// Files below `src` that every program has. Domain modules stand beside them.
const FILES: [&str; 14] = [
    "main.rs",     // ten lines
    "cli.rs",      // the command line, whose doc comments are the help text
    "lib.rs",      // `impl Kind`, `impl Program`
    "spec.rs",     // declarable fields; imports nothing from its crate
    "validate.rs", // validations that types cannot express
    "desired.rs",  // the declared state, as plain data
    "clients.rs",  // the clients of remote services, in `clients/`
    "session.rs",  // a document with its references resolved, and readers
    "observe.rs",  // the observation, made with readers
    "plan.rs",     // `plan` and `plan_destroy`, pure functions
    "step.rs",     // flat JSON and a sentence for each change
    "execute.rs",  // one exhaustive match over the steps
    "status.rs",   // facts and evidence
    "error.rs",    // diagnostics
];

/// Most lines of a file.
const LINES_MAX: usize = 500;
/// Most lines of `main.rs`.
const MAIN_LINES_MAX: usize = 10;

fn source(program: &str, file: &str) -> Test<String> {
    let path = root().join("tools").join(program).join("src").join(file);
    Ok(fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[test]
fn every_program_has_the_same_files() {
    let mut missing = Vec::new();
    for program in PROGRAMS {
        for file in FILES {
            if !root().join("tools").join(program).join("src").join(file).exists() {
                missing.push(format!("{program}/src/{file}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join(", "));
}

#[test]
fn declared_types_import_nothing_from_their_program() -> Test {
    for program in PROGRAMS {
        let spec = source(program, "spec.rs")?;
        let code = spec.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!code.contains("crate::"), "{program}: spec.rs imports from its own crate");
    }
    Ok(())
}

#[test]
fn plans_and_observations_have_no_permit_to_write() -> Test {
    for program in PROGRAMS {
        for file in ["plan.rs", "observe.rs", "desired.rs", "step.rs", "status.rs", "validate.rs"] {
            let text = source(program, file)?;
            assert!(!text.contains("WritePermit"), "{program}/src/{file} holds a permit");
            assert!(!text.contains("Writer::"), "{program}/src/{file} makes a writer");
        }
        let execute = source(program, "execute.rs")?;
        assert!(!execute.contains("\n            _ =>"), "{program}: execute.rs is not exhaustive");
    }
    Ok(())
}

/// Ensures that what a program can change at a service is found in one folder.
#[test]
fn readers_and_writers_of_remote_services_stand_in_clients() -> Test {
    for program in PROGRAMS {
        let folder = root().join("tools").join(program).join("src");
        let mut with_client = BTreeSet::new();
        find(&folder, &["struct Reader", "struct Writer"], &mut with_client)?;
        assert!(!with_client.is_empty(), "{program} has a client");
        let elsewhere: Vec<_> =
            with_client.iter().filter(|path| !path.starts_with(folder.join("clients"))).collect();
        assert!(elsewhere.is_empty(), "{program}: {elsewhere:?}");
    }
    Ok(())
}

/// Adds the Rust files below `folder` that declare one of `types`.
fn find(folder: &Path, types: &[&str], found: &mut BTreeSet<PathBuf>) -> Test {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, types, found)?;
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let declares = |name: &&str| {
            text.lines().any(|line| {
                let rest = line.split_once(*name).map(|(_, rest)| rest);
                rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()))
            })
        };
        if types.iter().any(declares) {
            found.insert(path);
        }
    }
    Ok(())
}

/// Returns the crates of this workspace in `manifest` that a program may not use: programs, emulators and set-up of tests.
fn forbidden<'a>(workspace: &str, manifest: &'a str) -> Vec<&'a str> {
    let path = |name: &str| {
        let line =
            workspace.lines().find_map(|line| line.strip_prefix(&format!("{name} = {{ path = \"")));
        line.and_then(|line| line.split('"').next())
    };
    let may_use = |path: &str| {
        path == "tools/talos-api"
            || (path.starts_with("tools/shared/") && path != "tools/shared/testing")
    };
    let mut names = dependencies(manifest);
    names.retain(|name| path(name).is_some_and(|path| !may_use(path)));
    names
}

/// Ensures that each program can be built, read and published without the others. A build with Nix proves the same for
/// included files, because it replaces every other crate with an empty one.
#[test]
fn programs_depend_on_shared_and_published_crates_alone() -> Test {
    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    for program in PROGRAMS {
        let manifest = fs::read_to_string(root().join("tools").join(program).join("Cargo.toml"))?;
        assert!(dependencies(&manifest).contains(&"documents"), "{program}: {manifest}");
        assert_eq!(forbidden(&workspace, &manifest), [""; 0], "{program}");
    }
    let with_program = "[package]\n\n[dependencies]\nserde = \"1\"\nflux-seed.workspace = true\n\n[dev-dependencies]\nlab.workspace = true\n";
    assert_eq!(forbidden(&workspace, with_program), ["flux-seed"], "another program is found");
    Ok(())
}

/// Ensures that no program contains the set-up of tests by way of a shared crate.
#[test]
fn shared_crates_do_not_contain_the_set_up_of_tests() -> Test {
    let mut count = 0;
    for entry in fs::read_dir(root().join("tools/shared"))? {
        let folder = entry?.path();
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        assert!(!dependencies(&manifest).contains(&"testing"), "{}", folder.display());
        count += 1;
    }
    assert!(count > 4, "the shared crates are where they are looked for: {count}");
    Ok(())
}

#[test]
fn files_are_short() -> Test {
    let mut long = BTreeSet::new();
    for folder in ["tools", "continuous-integration", "sources", "templates"] {
        measure(&root().join(folder), &mut long)?;
    }
    assert!(
        long.is_empty(),
        "longer than {LINES_MAX} lines, or a main.rs of more than {MAIN_LINES_MAX}: {long:?}"
    );
    Ok(())
}

fn measure(folder: &Path, long: &mut BTreeSet<String>) -> Test {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                measure(&path, long)?;
            }
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let lines = fs::read_to_string(&path)?.lines().count();
        let in_tools = path.starts_with(root().join("tools"));
        let is_main =
            name == "main.rs" && path.parent().is_some_and(|parent| parent.ends_with("src"));
        if lines > LINES_MAX || (in_tools && is_main && lines > MAIN_LINES_MAX) {
            long.insert(format!("{} ({lines})", path.display()));
        }
    }
    Ok(())
}
