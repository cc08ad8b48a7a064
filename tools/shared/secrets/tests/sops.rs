//! Files that `sops` 3.13.3 encrypted. `tests/sops/plain` holds what `sops decrypt` prints for each. The
//! identities there protect nothing.

use std::fs;
use std::path::{Path, PathBuf};

use secrets::{Error, Identities, Secret, Sops};
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

/// Checks that every value of the file is the value that `sops decrypt` prints.
fn assert_decrypts_as_sops_does(name: &str) {
    let sops = open(name);
    let plain = fs::read(golden(&format!("plain/{name}.json"))).expect("the output of sops");
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
            (Err(Error::InClear(_)), _) => {} // an unencrypted value is not a secret
            (Err(error), _) => panic!("{path}: {error}"),
        },
    }
}

#[test]
fn a_yaml_file_with_comments_maps_lists_numbers_and_long_texts_decrypts() {
    assert_decrypts_as_sops_does("values.yaml");
    let sops = open("values.yaml");
    assert_eq!(text(&sops, "root"), "c2VjcmV0");
    assert_eq!(text(&sops, "list.1.name"), "second");
    assert_eq!(text(&sops, "list.2.0"), "deep");
    assert_eq!(text(&sops, "numbers.whole"), "42");
    assert_eq!(text(&sops, "numbers.large"), "1000000000000000000000");
    assert_eq!(text(&sops, "flags.on"), "true");
    assert_eq!(text(&sops, "when"), "2026-11-22T23:36:00Z");
    let certificate = sops.get("certificate").expect("a value");
    assert_eq!(certificate.expose(), b"-----BEGIN CERTIFICATE-----\nMIIB\n\nend\n");
}

#[test]
fn a_json_file_decrypts() {
    assert_decrypts_as_sops_does("values.json");
    assert_eq!(text(&open("values.json"), "whole"), "9007199254740993");
}

#[test]
fn a_dotenv_file_decrypts() {
    assert_decrypts_as_sops_does("values.env");
    assert_eq!(text(&open("values.env"), "LINES"), "one\ntwo");
}

#[test]
fn a_binary_file_decrypts() {
    assert_eq!(text(&open("values.bin"), "data"), "any bytes at all\nline 2");
}

#[test]
fn a_file_for_two_recipients_decrypts_for_each() {
    assert_decrypts_as_sops_does("two-recipients.yaml");
    for file in ["two-recipients.yaml", "values.env"] {
        Sops::open(&golden(file), &identities("second.txt")).expect(file);
    }
}

#[test]
fn a_file_with_any_encryption_rule_decrypts() {
    assert_decrypts_as_sops_does("mac-only-encrypted.yaml");
    assert_decrypts_as_sops_does("encrypted-suffix.json");
    assert_decrypts_as_sops_does("comments.yaml");
    assert_eq!(text(&open("comments.yaml"), "token"), "not in clear");
}

#[test]
fn every_document_of_a_file_decrypts() {
    let sops = open("documents.yaml");
    assert_eq!(text(&sops, "stringData.token"), "first");
    assert_eq!(text(&sops, "data.other"), "c2Vjb25k");
}

#[test]
fn a_map_is_returned_as_json() {
    let json: Value = serde_json::from_str(&text(&open("values.json"), "s3")).expect("JSON");
    let expected = serde_json::json!({
        "accessKeyId": "AKIAFAKE", "secretAccessKey": "fake/secret+key=",
    });
    assert_eq!(json, expected);
    assert_eq!(text(&open("values.yaml"), "github.scopes"), r#"["repo","read:org"]"#);
}

#[test]
fn an_unencrypted_value_is_not_returned_as_a_secret() {
    let error = open("values.yaml").get("name_unencrypted").expect_err("in clear");
    let error = error.to_string();
    assert!(
        error.starts_with("`name_unencrypted` of ") && error.contains("is not encrypted"),
        "{error}"
    );
    assert!(open("values.json").get("seen_unencrypted").is_err());
}

#[test]
fn an_error_about_a_missing_key_lists_the_keys_of_the_file() {
    for key in ["rot", "root.deeper", "list.9", "list.-1", "list.first", "sops.mac", ""] {
        let error = open("values.yaml").get(key).expect_err(key).to_string();
        assert!(error.contains(&format!("has no `{key}`, only root, github, ")), "{error}");
    }
}

#[test]
fn an_error_about_a_file_for_others_names_its_recipients_and_the_variables_to_set() {
    let file = golden("values.yaml");
    let error = Sops::open(&file, &identities("second.txt")).expect_err("for others");
    let recipient = "age1rrphsed8kf5f7amyldf5kg5x04du8znfzrs2pj7h3hu6sr6hmc9q6df5df";
    assert!(
        error.to_string().ends_with(&format!(
            "is encrypted for {recipient}, and the given identities cannot decrypt it"
        )),
        "{error}"
    );
    let help = documents::Diagnostic::help(&error).expect("help");
    assert!(help.contains("SOPS_AGE_KEY_FILE") && help.contains("SOPS_AGE_KEY "), "{help}");
    let none = Identities::parse(&Secret::new(Vec::new())).expect("no identity");
    let error = Sops::open(&file, &none).expect_err("no identity").to_string();
    assert!(
        error.contains(recipient) && error.ends_with("and no age identity was found"),
        "{error}"
    );
}

/// Returns the error about the golden file `name` after `change`.
fn changed(name: &str, change: impl Fn(&str) -> String) -> Error {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(name);
    let before = fs::read_to_string(golden(name)).expect("a file");
    let after = change(&before);
    assert_ne!(before, after, "nothing was changed");
    fs::write(&file, after).expect("written");
    Sops::open(&file, &identities("first.txt")).expect_err("a changed file")
}

#[test]
fn an_unencrypted_file_is_an_error_in_every_format() {
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
fn an_error_about_an_invalid_file_does_not_quote_the_file() {
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
        assert!(matches!(error, Error::SopsInvalid { .. }), "{name}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn a_changed_unencrypted_value_is_detected() {
    for change in [
        ("name_unencrypted: in clear", "name_unencrypted: changed"),
        ("count_unencrypted: 12", "count_unencrypted: 13"),
    ] {
        let error = changed("values.yaml", |text| text.replace(change.0, change.1));
        assert!(matches!(error, Error::SopsTampered { .. }), "{error}");
    }
}

#[test]
fn an_encrypted_value_that_was_moved_removed_or_replaced_is_detected() {
    let moved = changed("values.yaml", |text| text.replace("\nfolded: ", "\nfolder: "));
    assert!(moved.to_string().ends_with("`folder` does not decrypt"), "{moved}");
    let without = |text: &str| {
        text.lines().filter(|line| !line.starts_with("folded")).collect::<Vec<_>>().join("\n")
    };
    assert!(matches!(changed("values.yaml", without), Error::SopsTampered { .. }));
    assert!(matches!(changed("mac-only-encrypted.yaml", without), Error::SopsTampered { .. }));
    for file in ["values.yaml", "mac-only-encrypted.yaml"] {
        for clear in ["hunter2", "5"] {
            let clear = format!("\nempty: {clear}");
            let replaced = changed(file, |text| text.replace("\nempty: \"\"", &clear));
            assert!(replaced.to_string().ends_with("`empty` is not encrypted"), "{replaced}");
        }
    }
}

#[test]
fn changed_metadata_is_detected() {
    let changes = [
        ("lastmodified: \"2026", "lastmodified: \"2025"),
        ("unencrypted_suffix: _unencrypted", "unencrypted_suffix: _clear"),
        ("unencrypted_suffix: _unencrypted", "unencrypted_suffix: root"),
        ("unencrypted_suffix: _unencrypted", "encrypted_regex: ^root$"),
        ("unencrypted_suffix: _unencrypted", "mac_only_encrypted: true"),
    ];
    for (before, after) in changes {
        let error = changed("values.yaml", |text| text.replace(before, after));
        assert!(matches!(error, Error::SopsTampered { .. }), "{after}: {error}");
    }
    let no_mac = |text: &str| {
        text.lines().filter(|line| !line.starts_with("    mac:")).collect::<Vec<_>>().join("\n")
    };
    assert!(matches!(changed("values.yaml", no_mac), Error::SopsInvalid { .. }));
}

#[test]
fn an_unencrypted_value_that_the_mac_does_not_cover_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("values.yaml");
    let text = fs::read_to_string(golden("mac-only-encrypted.yaml")).expect("a file");
    fs::write(&file, text.replace("whole: 42", "whole: 43")).expect("written");
    Sops::open(&file, &identities("first.txt")).expect("the file decrypts");
}
