//! Every program has the same files, so that a reader of one program finds everything in the others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use repository_tests::root;
use testing::Test;

const PROGRAMS: [&str; 5] =
    ["artifact-attest", "data-drain", "flux-seed", "talos-provision", "vcs-bootstrap"];

/// Files below `src` that every program has. Domain modules stand beside them.
const FILES: [&str; 13] = [
    "main.rs",     // ten lines
    "cli.rs",      // the command line, whose doc comments are the help text
    "lib.rs",      // `impl Kind`, `impl Program`
    "spec.rs",     // declarable fields; imports nothing from its crate
    "validate.rs", // validations that types cannot express
    "desired.rs",  // the declared state, as plain data
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

/// Returns the tables of a manifest that name `krate` as a dependency, for example `dev-dependencies`.
fn dependents(manifest: &toml::Table, krate: &str) -> Vec<String> {
    let tables = manifest.iter().filter_map(|(name, value)| Some((name, value.as_table()?)));
    let mut found = Vec::new();
    for (name, table) in tables {
        if name.ends_with("dependencies") && table.contains_key(krate) {
            found.push(name.clone());
        } else if name != "workspace" {
            found.extend(dependents(table, krate));
        }
    }
    found
}

/// Returns the manifest of every crate below `folder`.
fn manifests(folder: &Path) -> Test<Vec<PathBuf>> {
    let mut manifests = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with("Cargo.toml") {
            manifests.push(path);
        } else if path.is_dir() && !path.ends_with("target") {
            manifests.extend(self::manifests(&path)?);
        }
    }
    Ok(manifests)
}

#[test]
fn only_tests_depend_on_the_set_up_of_tests() -> Test {
    let (mut tests, mut others) = (0, Vec::new());
    for folder in ["tools", "continuous-integration/tests"] {
        for manifest in manifests(&root().join(folder))? {
            for table in dependents(&toml::from_str(&fs::read_to_string(&manifest)?)?, "testing") {
                match table.as_str() {
                    "dev-dependencies" => tests += 1,
                    _ => others.push(format!("{}: [{table}]", manifest.display())),
                }
            }
        }
    }
    assert!(tests >= PROGRAMS.len(), "the manifests are where they are looked for: {tests}");
    assert!(others.is_empty(), "{}", others.join(", "));
    Ok(())
}

#[test]
fn a_dependency_is_found_in_every_kind_of_table() -> Test {
    for table in ["dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
        let manifest = toml::from_str(&format!("[{table}]\ntesting.workspace = true\n"))?;
        let name = table.rsplit('.').next().unwrap_or_default();
        assert_eq!(dependents(&manifest, "testing"), [name]);
        assert_eq!(dependents(&manifest, "tested"), [""; 0]);
    }
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
