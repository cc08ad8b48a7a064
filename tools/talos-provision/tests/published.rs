//! Configurations and patches, judged by Talos's own code: the Go module `github.com/siderolabs/talos/pkg/machinery`.
//!
//! Needs Go, which fetches this module, so that no rule was written by this project on both sides of the comparison.

mod cases;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cases::{Case, base, judged};
use serde_json::{Value, json};
use talos_provision::spec::Role;
use testing::go;

/// Program in Go that holds Talos's own code.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/published");

fn printed(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().expect("the Go program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Returns what Talos makes of each configuration with its patches: the resulting configuration or an error.
fn verdicts(program: &Path, questions: &[Value]) -> Vec<Result<String, String>> {
    let mut command = Command::new(program);
    command.arg("verdicts").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the Go program");
    let mut input = child.stdin.take().expect("its input");
    let text = serde_json::to_string(questions).expect("JSON");
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("a thread").expect("written");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answers.len(), questions.len());
    let answer = |answer: &Value| match answer["error"].as_str().unwrap_or_default() {
        "" => Ok(answer["output"].as_str().unwrap_or_default().to_owned()),
        error => Err(error.to_owned()),
    };
    answers.iter().map(answer).collect()
}

/// Returns the values of a configuration. Talos writes some texts in another style, for example with tabs. In YAML 1.2,
/// which Go reads, `yes` is a text.
fn values(text: &str) -> Vec<Value> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_multiple_with_options(text, options).expect("YAML")
}

/// Compares our verdict about each patch with Talos's own: both refuse it, or both make the same values of it.
fn differences(program: &Path, patches: &[(Role, String)]) -> Vec<String> {
    let question =
        |(role, patch): &(Role, String)| json!({"config": base(*role), "patches": [patch]});
    let questions: Vec<_> = patches.iter().map(question).collect();
    let published = verdicts(program, &questions);
    let compared = patches.iter().zip(published).filter_map(|((role, patch), published)| {
        let ours = judged(*role, patch);
        match (&ours, &published) {
            (Err(_), Err(_)) => None,
            (Ok(ours), Ok(published)) if ours == published || values(ours) == values(published) => {
                None
            }
            (Ok(ours), Ok(published)) => {
                let lines = |text: &str, other: &str| {
                    let other: Vec<_> = other.lines().collect();
                    let lines = text.lines().filter(|line| !other.contains(line));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let (ours, published) = (lines(ours, published), lines(published, ours));
                Some(format!("{patch}\n  ours:\n{ours}\n  Talos's:\n{published}"))
            }
            (Ok(_), Err(why)) => {
                Some(format!("{patch}\n  Talos refuses this, we accept it: {why}"))
            }
            (Err(why), Ok(_)) => {
                Some(format!("{patch}\n  Talos accepts this, we refuse it: {why}"))
            }
        }
    });
    compared.collect()
}

// hazard: A patch has a field that the schema of this program lacks, or a field with another type, and a machine
// refuses its configuration after it was created.
// class: A description of a foreign format is written by hand and becomes wrong.
// members: fields of 45 kinds of documents, their types, the order in which Talos writes them, rules for merging
// now: a test fails and shows the line
#[test]
fn the_fields_of_every_document_are_the_published_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = go::build(SOURCE, folder.path());
    let ours =
        include_str!("../src/config/schema.txt").lines().filter(|line| !line.starts_with('#'));
    let published = printed(&program, "schema");
    assert!(ours.eq(published.lines()), "replace src/config/schema.txt by:\n{published}");
    let emulated = include_str!("../../emulators/talos/src/kinds.json");
    let published = printed(&program, "kinds");
    assert!(emulated == published, "replace tools/emulators/talos/src/kinds.json by:\n{published}");
}

#[test]
fn every_case_has_the_verdict_of_talos() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = go::build(SOURCE, folder.path());
    let cases = cases::all();
    let questions: Vec<_> = cases
        .iter()
        .map(|case| json!({"config": base(case.role), "patches": [case.patch]}))
        .collect();
    let published = verdicts(&program, &questions);
    let wrong =
        cases.iter().zip(&published).filter(|(case, verdict)| case.refused != verdict.is_err());
    let wrong: Vec<_> =
        wrong.map(|(Case { name, .. }, verdict)| format!("{name}: {verdict:?}")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let patches: Vec<_> = cases.into_iter().map(|case| (case.role, case.patch)).collect();
    let differences = differences(&program, &patches);
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

// hazard: A patch that every test accepts is refused by a real machine, because the emulator checks less.
// class: An emulator repeats the error of the client that it tests.
// members: types, unknown fields and kinds, 80 rules of the validator, versions of Kubernetes
// now: Talos and the emulator judge the same bytes, and agree
#[test]
fn the_emulator_has_the_verdict_of_talos() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = go::build(SOURCE, folder.path());
    let cases = cases::all();
    let received = cases.iter().filter_map(|case| Some((&case.name, cases::received(case)?)));
    let received: Vec<_> = received.collect();
    assert!(received.len() > 100, "{} configurations", received.len());
    let questions: Vec<_> =
        received.iter().map(|(_, config)| json!({"config": config, "patches": []})).collect();
    let published = verdicts(&program, &questions);
    let wrong = received.iter().zip(published).filter_map(|((name, config), published)| {
        let emulated = emulator_talos::refusal(config.as_bytes());
        let agree = emulated.is_some() == published.is_err();
        let published = published.err();
        (!agree).then(|| format!("{name}\n  Talos: {published:?}\n  emulator: {emulated:?}"))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), received.len(), wrong.join("\n"));
}

/// Plain and quoted scalars whose type depends on the field.
const SCALARS: [&str; 59] = [
    "1.30",
    "1.10",
    "0644",
    "0400",
    "0o600",
    "0x1F",
    "0b101",
    "1e3",
    "1e6",
    "1E-7",
    "1.5e3",
    "+5",
    "-5",
    "-0",
    "5.",
    ".5",
    "1_000",
    "08",
    "0",
    "00",
    "007",
    "12:30:45",
    "2026-11-01",
    "2026-11-01T10:00:00Z",
    "yes",
    "Yes",
    "no",
    "NO",
    "on",
    "off",
    "y",
    "n",
    "true",
    "True",
    "TRUE",
    "false",
    "False",
    "~",
    "null",
    "Null",
    "''",
    "\"\"",
    "'1.30'",
    "\"true\"",
    "'5'",
    "!!str 5",
    "<<",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "-1",
    "1h",
    "90s",
    "1h30m",
    "1.5s",
    "10GB",
    "a b",
    "[a, b]",
    "{a: b}",
];

/// Fields of each type, with `@` in the place of the scalar.
const TARGETS: [&str; 12] = [
    "cluster: {apiServer: {extraArgs: {flag: @}}}",
    "cluster: {apiServer: {extraArgs: {flag: [@]}}}",
    "machine: {env: {VARIABLE: @}}",
    "machine: {sysctls: {net.ipv4.ip_forward: @}}",
    "machine: {nodeAnnotations: {example.org/a: @}}",
    "machine: {certSANs: [@]}",
    "machine: {features: {diskQuotaSupport: @}}",
    "machine: {features: {kubePrism: {port: @}}}",
    "machine: {files: [{path: /var/a, content: a, permissions: @, op: create}]}",
    "machine: {time: {bootTimeout: @}}",
    "machine: {kubelet: {extraConfig: {field: @}}}",
    "machine: {install: {extraKernelArgs: [@, a]}}",
];

// hazard: A patch says `emulated-version: 1.30`, and the API server gets 1.3.
// class: A value is read with another type than its recipient uses.
// members: flags, environment variables, sysctls, annotations, permissions, durations, free-form maps
// now: a scalar keeps its text where Talos has a text
#[test]
fn every_scalar_becomes_what_talos_makes_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = go::build(SOURCE, folder.path());
    let patches: Vec<_> = TARGETS
        .iter()
        .flat_map(|target| SCALARS.map(|scalar| (Role::Controlplane, target.replace('@', scalar))))
        .collect();
    let differences = differences(&program, &patches);
    assert!(
        differences.is_empty(),
        "{} of {}:\n{}",
        differences.len(),
        patches.len(),
        differences.join("\n\n")
    );
}
