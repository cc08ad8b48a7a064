//! Patches with the verdict of Talos, and our own verdict about a patch.

use serde_json::Value;
use talos_provision::config::{Common, Patch, generate, patched, refusals, render};
use talos_provision::pki::Bundle;
use talos_provision::spec::Role;

/// Patch of the configuration that [`base`] returns.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Whether Talos refuses the patch or the configuration that results.
    pub(crate) refused: bool,
    pub(crate) role: Role,
    pub(crate) patch: String,
}

/// Returns the cases of `patches.txt`. A line `### refused worker: NAME` begins each.
#[allow(dead_code, reason = "a test file may use only a part of this module")]
pub(crate) fn all() -> Vec<Case> {
    let cases = include_str!("patches.txt").split("### ").skip(1);
    let case = |text: &str| {
        let (head, patch) = text.split_once('\n').expect("a patch");
        let (words, name) = head.split_once(": ").expect("a name");
        let role = if words.contains("worker") { Role::Worker } else { Role::Controlplane };
        let refused = words.starts_with("refused");
        assert!(refused || words.starts_with("accepted"), "{head}");
        Case { name: name.to_owned(), refused, role, patch: patch.to_owned() }
    };
    cases.map(case).collect()
}

fn documents(role: Role) -> Vec<Value> {
    let bundle = Bundle::parse(include_str!("../fixtures/talos/secrets.yaml")).expect("a bundle");
    let common = Common {
        cluster: "base",
        endpoint: "https://base:6443",
        kubernetes: "1.36.3",
        bundle: &bundle,
    };
    generate(&common, role)
}

/// Returns a valid configuration.
#[allow(dead_code, reason = "a test file may use only a part of this module")]
pub(crate) fn base(role: Role) -> String {
    render(&documents(role)).to_string()
}

/// Returns the configuration with `patch`, or why this program refuses the patch.
pub(crate) fn judged(role: Role, patch: &str) -> Result<String, String> {
    let patch = Patch::parse(patch).map_err(|mistakes| format!("{mistakes:?}"))?;
    let documents = patched(documents(role), [&patch]).map_err(|mistake| mistake.message)?;
    match refusals(&documents, role).as_slice() {
        [] => Ok(render(&documents).to_string()),
        refusals => Err(refusals.join("\n")),
    }
}

/// Returns the configuration that a machine would receive if no program checked the patch. `None` if no such
/// configuration exists, because the patch is no YAML or has directives.
#[allow(dead_code, reason = "a test file may use only a part of this module")]
pub(crate) fn received(case: &Case) -> Option<String> {
    if case.patch.contains("$patch") || case.patch.starts_with('-') {
        return None;
    }
    let patch: Vec<Value> = serde_saphyr::from_multiple(&case.patch).ok()?;
    let mut documents = documents(case.role);
    for document in patch.into_iter().filter(|document| !document.is_null()) {
        let same = |other: &&mut Value| {
            other["kind"] == document["kind"] && other["name"] == document["name"]
        };
        match documents.iter_mut().find(same) {
            Some(other) => combine(other, document),
            None => documents.push(document),
        }
    }
    Some(render(&documents).to_string())
}

/// Merges without any rule: maps by their keys, and every other value is replaced.
fn combine(left: &mut Value, right: Value) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in right {
                combine(left.entry(key).or_insert(Value::Null), value);
            }
        }
        (left, right) => *left = right,
    }
}
