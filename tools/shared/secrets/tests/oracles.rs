//! Interoperability with `sops` and `age`: each decrypts what the other has encrypted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use secrets::{AgeRecipient, Identities, Reference, Secret, Sops, seal_to, unseal_with};
use serde_json::{Map, Value, json};

/// Returns the path of an oracle: in the folder `LAB_BIN`, or else in `PATH`.
fn oracle(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::var_os("LAB_BIN").map(PathBuf::from);
    let folders = folders.into_iter().chain(std::env::split_paths(&path));
    let mut found = folders.map(|folder| folder.join(name)).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| {
        panic!("{name} is neither in LAB_BIN nor in PATH: run ./tasks/test, which installs {name}")
    })
}

/// Runs an oracle in `folder` without the environment of the test, and returns standard output.
fn run(name: &str, folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = attempt(name, folder, arguments, input);
    output.unwrap_or_else(|messages| panic!("{name} {arguments:?}: {messages}"))
}

/// Runs an oracle, and returns standard output, or standard error when it fails.
fn attempt(name: &str, folder: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new(oracle(name));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    command.env("SOPS_AGE_KEY_FILE", folder.join("identity"));
    // The input is a file, because writing a pipe blocks at 64 KiB while the output is not read.
    fs::write(folder.join("input"), input).expect("written");
    command.stdin(File::open(folder.join("input")).expect("just written"));
    let output = command.output().expect(name);
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(output.stdout) } else { Err(messages) }
}

/// Creates a folder with a new identity in the file `identity`.
fn new_identity() -> (tempfile::TempDir, Identities, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = run("age-keygen", folder.path(), &[], b"");
    fs::write(folder.path().join("identity"), &identity).expect("written");
    let recipient = run("age-keygen", folder.path(), &["-y", "identity"], b"");
    let recipient = String::from_utf8(recipient).expect("text").trim().to_owned();
    (folder, Identities::parse(&Secret::new(identity)).expect("identities"), recipient)
}

#[test]
fn age_and_this_crate_decrypt_the_output_of_each_other() {
    let (folder, identities, recipient) = new_identity();
    let ours = AgeRecipient::try_from(recipient.clone()).expect("a recipient");
    for plaintext in [&b""[..], b"kubeconfig", &vec![0xff; 200_000]] {
        let sealed = seal_to([&ours], plaintext).expect("sealed");
        let opened = run("age", folder.path(), &["-d", "-i", "identity"], sealed.as_bytes());
        assert!(opened == plaintext, "age decrypts our output");
        let sealed = run("age", folder.path(), &["-a", "-r", &recipient], plaintext);
        let sealed = String::from_utf8(sealed).expect("armor");
        let opened = unseal_with(&identities, &sealed).expect("opened");
        assert!(opened.expose() == plaintext, "we decrypt the output of age");
    }
}

#[test]
fn age_decrypts_with_a_derived_identity() {
    // A known identity of `derivation.md`: `age-keygen` parses the identity and prints its recipient.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("derivation.md");
    let page = fs::read_to_string(page).expect("the page");
    let start = page.find("AGE-SECRET-KEY-1").expect("an identity");
    let (folder, _, _) = new_identity();
    fs::write(folder.path().join("identity"), &page[start..start + 74]).expect("written");
    let recipient = run("age-keygen", folder.path(), &["-y", "identity"], b"");
    let recipient = String::from_utf8(recipient).expect("text").trim().to_owned();
    let recipient = AgeRecipient::try_from(recipient).expect("a recipient");
    let sealed = seal_to([&recipient], b"secret").expect("sealed");
    assert_eq!(run("age", folder.path(), &["-d", "-i", "identity"], sealed.as_bytes()), b"secret");
}

/// Creates a runner for few cases, because each case starts `sops` several times. `PROPTEST_CASES`
/// changes the number.
fn runner(cases: u32) -> TestRunner {
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new(if is_set { config } else { Config { cases, ..config } })
}

/// Generates text that YAML can hold, often text that looks like another type.
fn text() -> impl Strategy<Value = String> {
    let odd = [
        "",
        "yes",
        "no",
        "on",
        "null",
        "~",
        "true",
        "True",
        "0644",
        "0o17",
        "0x1F",
        "0b1",
        "1_000",
        "1e3",
        "1:30",
        ".5",
        "nan",
        "NaN",
        ".nan",
        "inf",
        "-.inf",
        "Infinity",
        "2001-12-14",
        "2001-12-14T21:59:43.10-05:00",
        "=",
        "<<",
        "- a",
        "a: b",
        "#",
        " x ",
        "a\n",
        "\na",
        "a\n\n",
        "a\n b\n",
        "\ta",
        "'",
        "\"",
        "\\n",
        "%",
        "@",
        "`",
        "{}",
        "[]",
        "!x",
        "&x",
        "*x",
        "|",
        ">",
        "?",
        "é",
        "🔑",
        "\u{2028}",
        "\u{a0}",
        "ENC[AES256_GCM,",
        "a: |\n  b",
    ];
    prop_oneof![
        3 => prop::sample::select(odd.to_vec()).prop_map(str::to_owned),
        2 => "[ -~\\n]{0,40}",
        1 => "[ -~æøå✔🔑\\n\\t]{0,200}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => text().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_filter("JSON has only finite numbers", |number| number.is_finite()).prop_map(Value::from),
        1 => (-1000i32..1000).prop_map(|eighths| json!(f64::from(eighths) / 8.0)),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            map(inner).prop_map(Value::from),
        ]
    })
}

/// Generates a map whose keys have no dot; the values of some keys stay unencrypted by their suffix.
fn map(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key = "[a-zA-Z0-9 _:/-]{1,8}(_unencrypted)?";
    prop::collection::vec((key, values), 0..5).prop_map(|entries| entries.into_iter().collect())
}

/// Encrypts `map` with `sops` into `file`, and checks that this crate decrypts the same values.
fn assert_round_trip(folder: &Path, identities: &Identities, map: &Map<String, Value>, file: &str) {
    let plain = serde_json::to_vec(&json!({ "all": map, "seal": "x" })).expect("JSON");
    let format = file.rsplit('.').next().expect("an extension");
    let recipient = run("age-keygen", folder, &["-y", "identity"], b"");
    let recipient = String::from_utf8(recipient).expect("text");
    let arguments = [
        "encrypt",
        "--age",
        recipient.trim(),
        "--input-type",
        "json",
        "--output-type",
        format,
        "/dev/stdin",
    ];
    fs::write(folder.join(file), run("sops", folder, &arguments, &plain)).expect("written");
    let shown = attempt("sops", folder, &["decrypt", "--output-type", "json", file], b"");
    // Measured with 3.13.3: `sops` writes -0.0 and some texts of line breaks so that `sops` itself
    // cannot decrypt the file.
    let Ok(shown) = shown else { return };
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    let sops = Sops::open(&folder.join(file), identities).expect("the file decrypts");
    assert_eq!(sops.get("seal").expect("a value").expose(), b"x");
    if let Ok(all) = sops.get("all") {
        let all: Value = serde_json::from_slice(all.expose()).expect("JSON");
        assert_eq!(numbers_as_floats(&all), numbers_as_floats(&shown["all"]));
    }
}

/// Converts numbers to floats, because `sops` prints 1.0 as 1 and keeps 1e21.
fn numbers_as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) if !number.is_i64() => json!(format!("{:?}", number.as_f64())),
        Value::Number(number) if number.as_i64().is_some_and(|number| number.abs() < 1 << 53) => {
            json!(format!("{:?}", number.as_f64()))
        }
        Value::Array(items) => items.iter().map(numbers_as_floats).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), numbers_as_floats(value))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn any_values_that_sops_encrypts_decrypt() {
    let (folder, identities, _) = new_identity();
    let mut runner = runner(40);
    let cases = runner.run(&map(value()), |map| {
        assert_round_trip(folder.path(), &identities, &map, "values.yaml");
        assert_round_trip(folder.path(), &identities, &map, "values.json");
        Ok(())
    });
    cases.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn any_dotenv_file_that_sops_encrypts_decrypts() {
    let (folder, identities, recipient) = new_identity();
    let (folder, file) = (folder.path(), folder.path().join("values.env"));
    let mut runner = runner(20);
    let lines = prop::collection::btree_map("[A-RT-Z][A-Z_]{0,8}", "[ -~æ✔]{1,30}", 1..5);
    let cases = runner.run(&lines, |lines| {
        let line = |(key, value): (&String, &String)| format!("{key}={value}\n");
        fs::write(&file, lines.iter().map(line).collect::<String>()).expect("written");
        run("sops", folder, &["encrypt", "--in-place", "--age", &recipient, "values.env"], b"");
        let sops = Sops::open(&file, &identities).expect("the file decrypts");
        for (key, value) in lines {
            let opened = sops.get(&key).expect("a value");
            assert_eq!(opened.expose(), value.replace("\\n", "\n").as_bytes());
        }
        Ok(())
    });
    cases.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_file_that_sops_has_edited_decrypts() {
    let (folder, identities, recipient) = new_identity();
    let file = folder.path().join("secrets.yaml");
    fs::write(&file, "root: one # why\nlist: [a]\n").expect("written");
    run(
        "sops",
        folder.path(),
        &["encrypt", "--in-place", "--age", &recipient, "secrets.yaml"],
        b"",
    );
    for (key, value) in
        [("[\"root\"]", "\"two\""), ("[\"s3\"][\"id\"]", "\"three\""), ("[\"list\"][1]", "5")]
    {
        run("sops", folder.path(), &["set", "secrets.yaml", key, value], b"");
    }
    run("sops", folder.path(), &["rotate", "--in-place", "secrets.yaml"], b"");
    let sops = Sops::open(&file, &identities).expect("the file decrypts");
    for (key, value) in [("root", "two"), ("s3.id", "three"), ("list.1", "5"), ("list.0", "a")] {
        assert_eq!(sops.get(key).expect(key).text().expect("text"), value);
    }
}

#[test]
fn sops_decrypts_and_edits_a_file_that_this_crate_created() {
    let (folder, identities, recipient) = new_identity();
    let file = folder.path().join("secrets.yaml");
    let entries = [("root", "one"), ("s3.id", "it's: \"two\" # æ"), ("s3.key", "three")];
    let secrets = entries.map(|(name, value)| (name, Secret::new(value.as_bytes().to_vec())));
    let recipients = [AgeRecipient::try_from(recipient).expect("a recipient")];
    let text = secrets::encrypt(&secrets, &recipients, "2026-11-28T12:00:00Z").expect("encrypted");
    fs::write(&file, text).expect("written");
    let opened =
        run("sops", folder.path(), &["decrypt", "--output-type", "json", "secrets.yaml"], b"");
    let opened: Value = serde_json::from_slice(&opened).expect("JSON");
    let expected = json!({"root": "one", "s3": {"id": "it's: \"two\" # æ", "key": "three"}});
    assert_eq!(opened, expected);
    run("sops", folder.path(), &["set", "secrets.yaml", "[\"root\"]", "\"four\""], b"");
    let sops = Sops::open(&file, &identities).expect("the file decrypts");
    assert_eq!(sops.get("root").expect("a root").text().expect("text"), "four");
}

#[test]
fn references_to_the_secrets_of_this_project_resolve() {
    // The test starts itself again, so that only the child process has the identity.
    if std::env::var_os("IN_A_PROCESS_OF_ITS_OWN").is_none() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "references_to_the_secrets_of_this_project_resolve"]);
        command.env("IN_A_PROCESS_OF_ITS_OWN", "yes").env_remove("SOPS_AGE_KEY");
        command.env("SOPS_AGE_KEY_FILE", "project/test-identity.txt").current_dir(root);
        let output = command.output().expect("this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let resolve = |key: &str| {
        Reference::Sops { sops: "project/secrets.yaml".into(), key: key.to_owned() }.resolve()
    };
    for key in ["root", "github", "ghcr", "hetzner", "s3.accessKeyId", "s3.secretAccessKey"] {
        assert!(!resolve(key).expect(key).text().expect("text").is_empty());
    }
    let s3: Value = serde_json::from_slice(resolve("s3").expect("s3").expose()).expect("JSON");
    assert_eq!(s3["accessKeyId"], "TESTNOTANACCESSKEYID");
}
