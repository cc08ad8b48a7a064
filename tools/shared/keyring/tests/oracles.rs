//! The real `sops` and `age`, which nobody here wrote: they open what we seal, and we open what
//! they write, whatever it is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use keyring::{AgeRecipient, Identities, Reference, Secret, Sops, seal_to, unseal_with};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

/// The path of an oracle: in the folder `LAB_BIN`, or else where the shell would find it.
fn oracle(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::var_os("LAB_BIN").map(PathBuf::from);
    let folders = folders.into_iter().chain(std::env::split_paths(&path));
    let mut found = folders.map(|folder| folder.join(name)).filter(|it| it.is_file());
    found.next().unwrap_or_else(|| {
        panic!("{name} is neither in LAB_BIN nor in PATH: run ./tasks/test, which brings it")
    })
}

/// Runs an oracle in `folder`, with nothing of our environment but what it needs to start.
fn run(name: &str, folder: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let done = attempt(name, folder, arguments, input);
    done.unwrap_or_else(|said| panic!("{name} {arguments:?}: {said}"))
}

/// What it printed; or what it said when it failed.
fn attempt(name: &str, folder: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new(oracle(name));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", folder);
    command.env("SOPS_AGE_KEY_FILE", folder.join("identity"));
    // From a file: a pipe that is written before the other is read stops at 64 KiB.
    fs::write(folder.join("input"), input).expect("written");
    command.stdin(File::open(folder.join("input")).expect("just written"));
    let output = command.output().expect(name);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(output.stdout) } else { Err(said) }
}

/// A folder with a new identity, for the oracles and for us.
fn somebody() -> (tempfile::TempDir, Identities, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = run("age-keygen", folder.path(), &[], b"");
    fs::write(folder.path().join("identity"), &identity).expect("written");
    let recipient = run("age-keygen", folder.path(), &["-y", "identity"], b"");
    let recipient = String::from_utf8(recipient).expect("text").trim().to_owned();
    (folder, Identities::parse(&Secret::new(identity)).expect("identities"), recipient)
}

#[test]
fn age_opens_what_we_seal_and_we_open_what_age_seals() {
    let (folder, identities, recipient) = somebody();
    let ours = AgeRecipient::try_from(recipient.clone()).expect("a recipient");
    for plaintext in [&b""[..], b"kubeconfig", &vec![0xff; 200_000]] {
        let sealed = seal_to([&ours], plaintext).expect("sealed");
        let opened = run("age", folder.path(), &["-d", "-i", "identity"], sealed.as_bytes());
        assert!(opened == plaintext, "age opens what we seal");
        let sealed = run("age", folder.path(), &["-a", "-r", &recipient], plaintext);
        let sealed = String::from_utf8(sealed).expect("armor");
        let opened = unseal_with(&identities, &sealed).expect("opened");
        assert!(opened.expose() == plaintext, "we open what age seals");
    }
}

#[test]
fn age_opens_what_is_sealed_to_a_derived_identity() {
    // A golden identity of `derivation.md`: age itself reads it, and knows its recipient.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("derivation.md");
    let page = fs::read_to_string(page).expect("the page");
    let start = page.find("AGE-SECRET-KEY-1").expect("an identity");
    let (folder, _, _) = somebody();
    fs::write(folder.path().join("identity"), &page[start..start + 74]).expect("written");
    let recipient = run("age-keygen", folder.path(), &["-y", "identity"], b"");
    let recipient = String::from_utf8(recipient).expect("text").trim().to_owned();
    let recipient = AgeRecipient::try_from(recipient).expect("a recipient");
    let sealed = seal_to([&recipient], b"secret").expect("sealed");
    assert_eq!(run("age", folder.path(), &["-d", "-i", "identity"], sealed.as_bytes()), b"secret");
}

/// Tries few cases, since each starts `sops` several times; `PROPTEST_CASES` asks for more.
fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new(if asked { config } else { Config { cases, ..config } })
}

/// Any text that YAML can hold, and often one that looks like something else.
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
        1 => any::<f64>().prop_filter("JSON has none", |it| it.is_finite()).prop_map(Value::from),
        1 => (-1000i32..1000).prop_map(|it| json!(f64::from(it) / 8.0)),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            map(inner).prop_map(Value::from),
        ]
    })
}

/// A map whose keys have no point in them, and some a suffix that keeps their values in clear.
fn map(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let key = "[a-zA-Z0-9 _:/-]{1,8}(_unencrypted)?";
    prop::collection::vec((key, values), 0..5).prop_map(|entries| entries.into_iter().collect())
}

/// Encrypts `map` with `sops` into `file`, and opens the file as `{sops, key}` does.
fn opens_as_it_was(folder: &Path, identities: &Identities, map: &Map<String, Value>, file: &str) {
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
    // Measured: -0.0, and some texts of line breaks, it writes in clear so that not even it can
    // read them.
    let Ok(shown) = shown else { return };
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    let sops = Sops::open(&folder.join(file), identities).expect("opens");
    assert_eq!(sops.get("seal").expect("it is there").expose(), b"x");
    if let Ok(all) = sops.get("all") {
        let all: Value = serde_json::from_slice(all.expose()).expect("JSON");
        assert_eq!(numbers_as_floats(&all), numbers_as_floats(&shown["all"]));
    }
}

/// `sops` shows 1.0 as 1, and 1e21 as it is.
fn numbers_as_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) if !number.is_i64() => json!(format!("{:?}", number.as_f64())),
        Value::Number(number) if number.as_i64().is_some_and(|it| it.abs() < 1 << 53) => {
            json!(format!("{:?}", number.as_f64()))
        }
        Value::Array(items) => items.iter().map(numbers_as_floats).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(key, it)| (key.clone(), numbers_as_floats(it))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn whatever_sops_encrypts_we_open() {
    let (folder, identities, _) = somebody();
    let mut runner = runner(40);
    let cases = runner.run(&map(value()), |map| {
        opens_as_it_was(folder.path(), &identities, &map, "values.yaml");
        opens_as_it_was(folder.path(), &identities, &map, "values.json");
        Ok(())
    });
    cases.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn whatever_sops_keeps_in_dotenv_we_open() {
    let (folder, identities, recipient) = somebody();
    let (folder, file) = (folder.path(), folder.path().join("values.env"));
    let mut runner = runner(20);
    let lines = prop::collection::btree_map("[A-RT-Z][A-Z_]{0,8}", "[ -~æ✔]{1,30}", 1..5);
    let cases = runner.run(&lines, |lines| {
        let line = |(key, value): (&String, &String)| format!("{key}={value}\n");
        fs::write(&file, lines.iter().map(line).collect::<String>()).expect("written");
        run("sops", folder, &["encrypt", "--in-place", "--age", &recipient, "values.env"], b"");
        let sops = Sops::open(&file, &identities).expect("opens");
        for (key, value) in lines {
            let opened = sops.get(&key).expect("it is there");
            assert_eq!(opened.expose(), value.replace("\\n", "\n").as_bytes());
        }
        Ok(())
    });
    cases.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_sops_edits_we_open() {
    let (folder, identities, recipient) = somebody();
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
    let sops = Sops::open(&file, &identities).expect("opens");
    for (key, value) in [("root", "two"), ("s3.id", "three"), ("list.1", "5"), ("list.0", "a")] {
        assert_eq!(sops.get(key).expect(key).text().expect("text"), value);
    }
}

#[test]
fn sops_opens_and_edits_a_file_that_we_created() {
    let (folder, identities, recipient) = somebody();
    let file = folder.path().join("secrets.yaml");
    let entries = [("root", "one"), ("s3.id", "it's: \"two\" # æ"), ("s3.key", "three")];
    let secrets = entries.map(|(name, value)| (name, Secret::new(value.as_bytes().to_vec())));
    let recipients = [AgeRecipient::try_from(recipient).expect("a recipient")];
    let text = keyring::encrypt(&secrets, &recipients, "2026-11-28T12:00:00Z").expect("encrypted");
    fs::write(&file, text).expect("written");
    let opened =
        run("sops", folder.path(), &["decrypt", "--output-type", "json", "secrets.yaml"], b"");
    let opened: Value = serde_json::from_slice(&opened).expect("JSON");
    let expected = json!({"root": "one", "s3": {"id": "it's: \"two\" # æ", "key": "three"}});
    assert_eq!(opened, expected);
    run("sops", folder.path(), &["set", "secrets.yaml", "[\"root\"]", "\"four\""], b"");
    let sops = Sops::open(&file, &identities).expect("opens");
    assert_eq!(sops.get("root").expect("a root").text().expect("text"), "four");
}

#[test]
fn the_projects_own_secrets_open_as_documents_refer_to_them() {
    // In a process of its own, which alone is given the identity.
    if std::env::var_os("IN_A_PROCESS_OF_ITS_OWN").is_none() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "the_projects_own_secrets_open_as_documents_refer_to_them"]);
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
    let s3 = Reference::Sops { sops: "project/secrets.yaml".into(), key: "s3".to_owned() };
    assert_eq!(
        keyring::S3Credentials::resolve(&s3).expect("s3").access_key_id,
        "TESTNOTANACCESSKEYID"
    );
}
