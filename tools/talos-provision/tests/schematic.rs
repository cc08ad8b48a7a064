//! Ids of schematics, compared with those of the Image Factory's own Go package,
//! `github.com/siderolabs/image-factory/pkg/schematic` v0.8.4.
//!
//! Needs Go, which fetches the package.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use talos_provision::schematic::Schematic;
use testing::go;

/// Program in Go that holds the factory's own package.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schematic");

/// Images whose YAML needs each style of a text: plain, quoted, and what looks like another type.
fn images() -> Vec<serde_json::Value> {
    let extension = |name: &str| format!("siderolabs/{name}");
    let arguments = [
        "net.ifnames=0",
        "console=ttyS0,115200",
        "-console",
        "1",
        "0x10",
        "1e3",
        "true",
        "no",
        "~",
        "null",
        "on",
        "2026-11-30",
        "12:30:45",
        ".inf",
        "a:b",
        "a:",
        "#a",
        "a#b",
        "[a]",
        "{a}",
        "&a",
        "*a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "?",
        "-",
        "--",
        "---",
        "=",
        "0644",
        "1_000",
        "+1",
        "y",
        "n",
        "Yes",
        "OFF",
        "a,b",
        "talos.config=https://example.org/?a=b&c=${uuid}",
    ];
    let one = arguments.map(|argument| json!({"kernelArguments": [argument]}));
    let sets = [
        json!({}),
        json!({"kernelArguments": arguments.as_slice()}),
        json!({"extensions": [extension("qemu-guest-agent")]}),
        json!({"extensions": [extension("util-linux-tools"), extension("iscsi-tools")]}),
        json!({"extensions": [extension("zfs")], "kernelArguments": ["a=b", "c"]}),
    ];
    sets.into_iter().chain(one).collect()
}

// hazard: An image is written under an id that the factory does not know, so its download fails on a server
// that costs money, or a machine is upgraded to an image without its extensions.
// class: A digest of text that two programs write in two ways.
// members: quoting, order and indentation of YAML; empty customizations; sorted extensions
// now: every id is compared with the one of the factory's own package
#[test]
fn every_id_is_the_one_that_the_factory_computes() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = go::build(SOURCE, folder.path());
    let schematics: Vec<_> = images()
        .into_iter()
        .map(|image| Schematic::of(&serde_json::from_value(image).expect("an image")))
        .collect();
    // The factory reads the YAML that it gets, and computes the id of what it has read.
    let input: Vec<_> = schematics.iter().map(Schematic::yaml).collect();
    let mut command = Command::new(&program);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(json!(input).to_string().as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    let ids: Vec<String> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(ids.len(), schematics.len());
    for (schematic, id) in schematics.iter().zip(ids) {
        assert_eq!(schematic.id(), id, "{}", schematic.yaml());
    }
}
