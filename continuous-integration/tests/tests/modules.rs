//! The modules of every crate: none depends on itself by way of others.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use repository_tests::{modules, root};

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// The folder of sources of each crate below `tools/`, by the crate's folder.
fn crates() -> Test<BTreeMap<String, PathBuf>> {
    let mut crates = BTreeMap::new();
    for parent in ["tools", "tools/shared", "tools/emulators"] {
        for entry in fs::read_dir(root().join(parent))? {
            let folder = entry?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if folder.join("src/lib.rs").exists() {
                crates.insert(name, folder.join("src"));
            }
        }
    }
    assert!(crates.len() >= 10, "the crates are where they are looked for: {crates:?}");
    Ok(crates)
}

#[test]
fn modules_of_a_crate_form_no_cycle() -> Test {
    for (name, src) in crates()? {
        let cycles = modules::cycles(&modules::graph(&src)?);
        let folder = src.display();
        assert!(
            cycles.is_empty(),
            "{name}: {cycles:?}; `cargo run --bin module-graph {folder}` draws them"
        );
    }
    Ok(())
}

#[test]
fn a_cycle_is_found_in_every_form_of_use() -> Test {
    let forms = [
        "use crate::b::B;",
        "use crate::{a, b::B};",
        "use super::b::B;",
        "fn f() { crate::b::f(); }",
        "fn f(_: &super::b::B) {}",
        "mod c { fn f() { super::super::b::f(); } }",
        "use crate::B;",
        "use crate::b;",
    ];
    for form in forms {
        let folder = tempfile::tempdir()?;
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
        write("lib.rs", "mod a;\nmod b;\npub use b::B;\n#[cfg(test)]\nmod tests;\n")?;
        write("a.rs", form)?;
        write(
            "b.rs",
            "use crate::a::A;\npub struct B;\n#[cfg(test)]\nmod tests { use crate::x; }\n",
        )?;
        let graph = modules::graph(folder.path())?;
        let cycle = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(modules::cycles(&graph), [cycle], "{form}: {graph:?}");
        write("b.rs", "pub struct B;\n")?;
        assert_eq!(modules::cycles(&modules::graph(folder.path())?), [], "{form}");
    }
    Ok(())
}

#[test]
fn children_of_a_module_that_only_declares_modules_are_nodes() -> Test {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("clients"))?;
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
    write("lib.rs", "mod absence;\nmod clients;\n")?;
    write("absence.rs", "use crate::clients::http::Answer;")?;
    write("clients/forge.rs", "use crate::absence;")?;
    write("clients/http.rs", "pub struct Answer;")?;
    write("clients.rs", "pub mod forge;\npub mod http;\n")?;
    assert_eq!(modules::cycles(&modules::graph(folder.path())?), []);
    write("clients/http.rs", "use crate::clients::forge;\npub struct Answer;")?;
    let cycle = ["absence", "clients::forge", "clients::http"].map(str::to_owned);
    assert_eq!(modules::cycles(&modules::graph(folder.path())?), [BTreeSet::from(cycle)]);
    write("clients/http.rs", "pub struct Answer;")?;
    write("clients.rs", "pub mod forge;\npub mod http;\npub const PORT: u16 = 1;\n")?;
    let cycle = ["absence", "clients"].map(str::to_owned);
    assert_eq!(modules::cycles(&modules::graph(folder.path())?), [BTreeSet::from(cycle)]);
    Ok(())
}
