//! Files that the real `sops` 3.13.3 wrote, and what it makes of them: `tests/sops/plain` is its
//! own output. The identities there protect nothing.

use std::fs;
use std::path::{Path, PathBuf};

use keyring::{Error, Identities, Secret, Sops};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sops").join(name)
}

fn identities(name: &str) -> Identities {
    let text = Secret::new(fs::read(golden(name)).expect("an identity"));
    Identities::parse(&text).expect("an identity")
}

fn open(name: &str) -> Sops {
    Sops::open(&golden(name), &identities("first.txt")).expect(name)
}

fn text(sops: &Sops, key: &str) -> String {
    sops.get(key).expect(key).text().expect("text").to_owned()
}

/// Every value of the file is the one that `sops decrypt` shows.
fn opens_as_sops_does(name: &str) {
    let sops = open(name);
    let plain = fs::read(golden(&format!("plain/{name}.json"))).expect("what sops shows");
    let plain: Value = serde_json::from_slice(&plain).expect("JSON");
    let mut compared = 0;
    compare(&sops, "", &plain, &mut compared);
    assert!(compared > 1, "nothing was compared");
}

fn compare(sops: &Sops, path: &str, plain: &Value, compared: &mut usize) {
    let below = |step: &str| format!("{path}{}{step}", if path.is_empty() { "" } else { "." });
    match plain {
        Value::Object(entries) => {
            for (key, value) in entries {
                compare(sops, &below(key), value, compared);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                compare(sops, &below(&index.to_string()), value, compared);
            }
        }
        plain => match (sops.get(path), plain) {
            (Ok(secret), Value::String(plain)) => {
                assert_eq!(secret.expose(), plain.as_bytes(), "{path}");
                *compared += 1;
            }
            (Ok(secret), plain) => {
                let opened: Value = serde_json::from_slice(secret.expose()).expect("JSON");
                assert_eq!(opened.as_f64(), plain.as_f64(), "{path}");
                assert_eq!(opened.as_bool(), plain.as_bool(), "{path}");
                *compared += 1;
            }
            (Err(Error::InClear(_)), _) => {} // there is nothing to open
            (Err(error), _) => panic!("{path}: {error}"),
        },
    }
}

#[test]
fn yaml_with_comments_maps_lists_numbers_and_long_texts_opens() {
    opens_as_sops_does("values.yaml");
    let sops = open("values.yaml");
    assert_eq!(text(&sops, "root"), "c2VjcmV0");
    assert_eq!(text(&sops, "list.1.name"), "second");
    assert_eq!(text(&sops, "list.2.0"), "deep");
    assert_eq!(text(&sops, "numbers.whole"), "42");
    assert_eq!(text(&sops, "numbers.large"), "1000000000000000000000");
    assert_eq!(text(&sops, "flags.on"), "true");
    assert_eq!(text(&sops, "when"), "2026-11-22T23:36:00Z");
    let certificate = sops.get("certificate").expect("it is there");
    assert_eq!(certificate.expose(), b"-----BEGIN CERTIFICATE-----\nMIIB\n\nend\n");
}

#[test]
fn json_opens() {
    opens_as_sops_does("values.json");
    assert_eq!(text(&open("values.json"), "whole"), "9007199254740993");
}

#[test]
fn dotenv_opens() {
    opens_as_sops_does("values.env");
    assert_eq!(text(&open("values.env"), "LINES"), "one\ntwo");
}

#[test]
fn a_file_of_any_bytes_opens() {
    assert_eq!(text(&open("values.bin"), "data"), "any bytes at all\nline 2");
}

#[test]
fn a_file_for_two_opens_for_either() {
    opens_as_sops_does("two-recipients.yaml");
    for file in ["two-recipients.yaml", "values.env"] {
        Sops::open(&golden(file), &identities("second.txt")).expect(file);
    }
}

#[test]
fn every_rule_of_what_is_encrypted_is_understood() {
    opens_as_sops_does("mac-only-encrypted.yaml");
    opens_as_sops_does("encrypted-suffix.json");
    opens_as_sops_does("comments.yaml");
    assert_eq!(text(&open("comments.yaml"), "token"), "not in clear");
}

#[test]
fn every_document_of_a_file_opens() {
    let sops = open("documents.yaml");
    assert_eq!(text(&sops, "stringData.token"), "first");
    assert_eq!(text(&sops, "data.other"), "c2Vjb25k");
}

#[test]
fn a_map_comes_as_json() {
    let json: Value = serde_json::from_str(&text(&open("values.json"), "s3")).expect("JSON");
    let expected = serde_json::json!({
        "accessKeyId": "AKIAFAKE", "secretAccessKey": "fake/secret+key=",
    });
    assert_eq!(json, expected);
    assert_eq!(text(&open("values.yaml"), "github.scopes"), r#"["repo","read:org"]"#);
}

#[test]
fn a_value_that_stands_in_clear_is_no_secret() {
    let error = open("values.yaml").get("name_unencrypted").expect_err("in clear");
    let error = error.to_string();
    assert!(error.starts_with("`name_unencrypted` of ") && error.contains("in clear"), "{error}");
    assert!(open("values.json").get("seen_unencrypted").is_err());
}

#[test]
fn a_value_that_is_not_there_is_told_with_those_that_are() {
    for key in ["rot", "root.deeper", "list.9", "list.-1", "list.first", "sops.mac", ""] {
        let error = open("values.yaml").get(key).expect_err(key).to_string();
        assert!(error.contains(&format!("has no `{key}`, only root, github, ")), "{error}");
    }
}

#[test]
fn a_file_for_others_names_them_and_says_what_to_set() {
    let file = golden("values.yaml");
    let error = Sops::open(&file, &identities("second.txt")).expect_err("for others");
    let recipient = "age1rrphsed8kf5f7amyldf5kg5x04du8znfzrs2pj7h3hu6sr6hmc9q6df5df";
    assert!(
        error
            .to_string()
            .ends_with(&format!("is for {recipient}, and what is here is the given identities")),
        "{error}"
    );
    let help = documents::Diagnostic::help(&error).expect("help");
    assert!(help.contains("SOPS_AGE_KEY_FILE") && help.contains("SOPS_AGE_KEY "), "{help}");
    let nobody = Identities::parse(&Secret::new(Vec::new())).expect("no identity");
    let error = Sops::open(&file, &nobody).expect_err("nobody").to_string();
    assert!(
        error.contains(recipient) && error.ends_with("what is here is no identity at all"),
        "{error}"
    );
}

/// The error about the golden file `name` after `change`.
fn changed(name: &str, change: impl Fn(&str) -> String) -> Error {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(name);
    let before = fs::read_to_string(golden(name)).expect("a file");
    let after = change(&before);
    assert_ne!(before, after, "nothing was changed");
    fs::write(&file, after).expect("written");
    Sops::open(&file, &identities("first.txt")).expect_err("it was changed")
}

#[test]
fn a_file_in_clear_is_refused_whatever_its_format() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, clear) in [
        ("a.yaml", "token: hunter2\n"),
        ("a.yml", "---\ntoken: hunter2\n---\nother: 1\n"),
        ("a.json", r#"{"token": "hunter2"}"#),
        ("a.env", "TOKEN=hunter2\n"),
        ("token", "hunter2\n"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, clear).expect("written");
        let error = Sops::open(&file, &identities("first.txt")).expect_err(name);
        assert!(matches!(error, Error::InClear(_)), "{name}: {error}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn a_file_that_cannot_be_read_says_nothing_of_what_is_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("a.yaml", "token: hunter2: hunter2\n"),
        ("b.yaml", "- hunter2\n"),
        ("c.yaml", "token: hunter2\ntoken: hunter2\n"),
        ("a.json", r#"{"token": hunter2}"#),
        ("a.env", "hunter2\n"),
        ("a.ini", "[hunter2]\n"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("written");
        let error = Sops::open(&file, &identities("first.txt")).expect_err(name);
        assert!(matches!(error, Error::SopsGarbled { .. }), "{name}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn a_value_in_clear_that_was_changed_is_seen() {
    for change in [
        ("name_unencrypted: in clear", "name_unencrypted: changed"),
        ("count_unencrypted: 12", "count_unencrypted: 13"),
    ] {
        let error = changed("values.yaml", |it| it.replace(change.0, change.1));
        assert!(matches!(error, Error::SopsTampered { .. }), "{error}");
    }
}

#[test]
fn an_encrypted_value_that_was_moved_removed_or_replaced_is_seen() {
    let moved = changed("values.yaml", |it| it.replace("\nfolded: ", "\nfolder: "));
    assert!(moved.to_string().ends_with("`folder` does not open"), "{moved}");
    let without =
        |it: &str| it.lines().filter(|it| !it.starts_with("folded")).collect::<Vec<_>>().join("\n");
    assert!(matches!(changed("values.yaml", without), Error::SopsTampered { .. }));
    assert!(matches!(changed("mac-only-encrypted.yaml", without), Error::SopsTampered { .. }));
    for file in ["values.yaml", "mac-only-encrypted.yaml"] {
        for clear in ["hunter2", "5"] {
            let clear = format!("\nempty: {clear}");
            let replaced = changed(file, |it| it.replace("\nempty: \"\"", &clear));
            assert!(replaced.to_string().ends_with("`empty` is not encrypted"), "{replaced}");
        }
    }
}

#[test]
fn metadata_that_was_changed_is_seen() {
    let changes = [
        ("lastmodified: \"2026", "lastmodified: \"2025"),
        ("unencrypted_suffix: _unencrypted", "unencrypted_suffix: _clear"),
        ("unencrypted_suffix: _unencrypted", "unencrypted_suffix: root"),
        ("unencrypted_suffix: _unencrypted", "encrypted_regex: ^root$"),
        ("unencrypted_suffix: _unencrypted", "mac_only_encrypted: true"),
    ];
    for (before, after) in changes {
        let error = changed("values.yaml", |it| it.replace(before, after));
        assert!(matches!(error, Error::SopsTampered { .. }), "{after}: {error}");
    }
    let no_mac = |it: &str| {
        it.lines().filter(|it| !it.starts_with("    mac:")).collect::<Vec<_>>().join("\n")
    };
    assert!(matches!(changed("values.yaml", no_mac), Error::SopsGarbled { .. }));
}

#[test]
fn a_value_in_clear_that_the_mac_does_not_cover_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    let text = fs::read_to_string(golden("mac-only-encrypted.yaml")).expect("a file");
    fs::write(&file, text.replace("whole: 42", "whole: 43")).expect("written");
    Sops::open(&file, &identities("first.txt")).expect("opens");
}
