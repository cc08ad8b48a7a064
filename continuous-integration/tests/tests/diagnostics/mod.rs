//! Exit statuses of errors, read from the source code, and the page of reasons.

use std::collections::{BTreeMap, BTreeSet};

use reasons::Reason;
use syn::buffer::Cursor;

use super::{Files, Source, after_token};

const HEAD: &str = "\
---
title: Reasons
summary: Every reason of a condition, an error and a refusal, with its meaning and the next action.
date: 2026-11-29
---
A condition in `status.conditions`, an entry of `status.refusals` and an error have a `reason`: one word that names the cause. All programs
use the words of one list, `tools/shared/reasons/src/list.rs`, and this page is generated from the list:
`SNAPSHOTS=overwrite cargo nextest run -p repository-tests --test contracts`.

The message of the condition names the object, and the help on standard error names the command for the case at hand.

| exit status | meaning |
|---|---|
| 0 | The command succeeded for every document. |
| 2 | The command line, a document or a secret is wrong. Nothing was changed. |
| 3 | `plan --check` found steps. |
| 100 | A retry cannot help: a person must change a document, a secret or a remote service. |
| 111 | A retry may help. |

The exit status of a run is the greatest of its documents. A reason without an exit status is no error: only conditions and refusals have it.

| reason | meaning | what to do | exit status | programs |
|---|---|---|---|---|
";

/// Files whose reasons become reasons of errors although no `match` on an error names them, and the exit
/// status of these errors: `Error::Blocked`, `PushRefused` and `UploadRefused` of vcs-bootstrap take the reason of a
/// refusal, and `Error::Api` of talos-provision takes it from the code of the API.
const INDIRECT: [(&str, u8); 11] = [
    ("tools/talos-provision/src/api_error.rs", 100),
    ("tools/vcs-bootstrap/src/absence.rs", 100),
    ("tools/vcs-bootstrap/src/clients/http.rs", 100),
    ("tools/vcs-bootstrap/src/desired.rs", 100),
    ("tools/vcs-bootstrap/src/clients/git.rs", 100),
    ("tools/vcs-bootstrap/src/clients/github.rs", 100),
    ("tools/vcs-bootstrap/src/clients/lfs.rs", 100),
    ("tools/vcs-bootstrap/src/clients/lfs_server.rs", 100),
    ("tools/vcs-bootstrap/src/plan.rs", 100),
    ("tools/vcs-bootstrap/src/refused.rs", 100),
    ("tools/vcs-bootstrap/src/refused/uploads.rs", 100),
];

/// Parts of shared crates that only some of the crate's users call, and the type without which no program
/// calls the part: a loss that the data gate judges, and a lookup in a registry.
pub(crate) const PARTS: [(&str, &str); 2] =
    [("tools/shared/contract/src/gate", "Loss"), ("tools/shared/remote/src/registry", "Lookup")];

/// Crates with their files.
type Reporters = [(String, Files)];

/// One arm of a `match`: the variants in its pattern, and its value without blanks. Without variants, the
/// value holds for all of them.
struct Arm {
    variants: Vec<String>,
    value: String,
}

/// Returns the exit statuses of each reason, from the functions `reason` and `exit` of one file.
pub(crate) fn exits(tokens: Cursor<'_>) -> BTreeMap<String, BTreeSet<u8>> {
    let mut exits = BTreeMap::<_, BTreeSet<u8>>::new();
    let (reasons, statuses) = (arms(tokens, "reason"), arms(tokens, "exit"));
    for arm in &reasons {
        let Some(word) = arm.value.strip_prefix("Reason::") else { continue };
        let is_for = |other: &&Arm| {
            let mut variants = other.variants.iter();
            other.variants.is_empty() || variants.any(|variant| arm.variants.contains(variant))
        };
        let found = statuses.iter().filter(is_for).filter_map(|arm| exit(&arm.value));
        exits.entry(word.to_owned()).or_default().extend(found);
    }
    exits
}

fn exit(value: &str) -> Option<u8> {
    match value {
        "Exit::Usage" => Some(2),
        "Exit::Permanent" => Some(100),
        "Exit::Temporary" => Some(111),
        _ => None,
    }
}

/// Returns the arms of the `match` in the body of the function called `name`, or else the body as one arm.
fn arms(tokens: Cursor<'_>, name: &str) -> Vec<Arm> {
    let Some(body) = body(tokens, name) else { return Vec::new() };
    let (mut cursor, mut value) = (body, String::new());
    while let Some((tree, next)) = cursor.token_tree() {
        if cursor.ident().is_some_and(|(word, _)| word == "match") {
            return block(cursor).map_or_else(Vec::new, read_arms);
        }
        value.push_str(&tree.to_string());
        cursor = next;
    }
    vec![Arm { variants: Vec::new(), value }]
}

/// Returns the inside of the body of the function called `name`.
fn body<'a>(mut cursor: Cursor<'a>, name: &str) -> Option<Cursor<'a>> {
    while !cursor.eof() {
        if let Some((_, next)) = cursor.ident().filter(|(word, _)| word == "fn")
            && next.ident().is_some_and(|(word, _)| word == name)
            && let Some(inside) = block(next)
        {
            return Some(inside);
        }
        if let Some((inside, _, _, next)) = cursor.any_group() {
            if let Some(found) = body(inside, name) {
                return Some(found);
            }
            cursor = next;
        } else {
            cursor = after_token(cursor);
        }
    }
    None
}

/// Returns the inside of the next group in braces; `None` if a semicolon comes first.
fn block(mut cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    while !cursor.eof() {
        let (tree, next) = cursor.token_tree()?;
        let text = tree.to_string();
        if text == ";" {
            return None;
        }
        if text.starts_with('{') {
            return cursor.any_group().map(|(inside, ..)| inside);
        }
        cursor = next;
    }
    None
}

fn read_arms(mut cursor: Cursor<'_>) -> Vec<Arm> {
    let mut arms = Vec::new();
    while !cursor.eof() {
        let mut pattern = Vec::new();
        while let Some((tree, next)) = cursor.token_tree() {
            cursor = next;
            pattern.push(tree.to_string());
            if pattern.ends_with(&["=".to_owned(), ">".to_owned()]) {
                break;
            }
        }
        let mut value = String::new();
        while let Some((tree, next)) = cursor.token_tree() {
            cursor = next;
            let text = tree.to_string();
            let is_block = value.is_empty() && text.starts_with('{');
            if text == "," {
                break;
            }
            value.push_str(text.trim_matches(['{', '}']));
            if is_block {
                let comma = cursor.punct().filter(|(punct, _)| punct.as_char() == ',');
                cursor = comma.map_or(cursor, |(_, next)| next);
                break;
            }
        }
        value.retain(|letter| !letter.is_whitespace());
        let variants = pattern.windows(4).filter(|words| words[..3] == ["Self", ":", ":"]);
        let variants = variants.map(|words| words[3].clone()).collect();
        arms.push(Arm { variants, value });
    }
    arms
}

/// Returns the exit statuses of the errors with each reason, over all crates.
pub(crate) fn exits_of_errors(reporters: &Reporters) -> BTreeMap<String, BTreeSet<u8>> {
    let mut exits = BTreeMap::<String, BTreeSet<u8>>::new();
    for (file, source) in reporters.iter().flat_map(|(_, files)| files) {
        for (word, found) in &source.exits {
            exits.entry(word.clone()).or_default().extend(found);
        }
        if let Some((_, exit)) = INDIRECT.iter().find(|(indirect, _)| indirect == file) {
            for word in &source.reasons {
                exits.entry(word.clone()).or_default().insert(*exit);
            }
        }
    }
    exits
}

/// Whether the crate `name` depends on `shared`, directly or through other shared crates.
fn depends(name: &str, shared: &str) -> bool {
    let path = repository_tests::root().join("tools").join(name).join("Cargo.toml");
    let manifest = std::fs::read_to_string(path).unwrap_or_default();
    repository_tests::dependencies(&manifest).into_iter().any(|other| {
        let other = format!("shared/{other}");
        other == shared || (other != name && depends(&other, shared))
    })
}

/// Returns the programs that report `reason`, as the page shows them: the reason is in their own code, in a
/// shared crate that they use, or in a part of such a crate that they call.
fn programs(reason: Reason, reporters: &Reporters) -> String {
    let holds = |source: &Source| source.reasons.contains(reason.as_str());
    let part = |file: &str| PARTS.iter().find(|(path, _)| file.starts_with(path));
    let reports =
        |files: &Files| files.iter().any(|(file, source)| holds(source) && part(file).is_none());
    let all_files = reporters.iter().flat_map(|(_, files)| files);
    let reporting = all_files.filter(|(_, source)| holds(source));
    let parts: Vec<_> = reporting.filter_map(|(file, _)| part(file)).collect();
    let (shared, programs): (Vec<_>, Vec<_>) =
        reporters.iter().partition(|(name, _)| name.starts_with("shared/"));
    let shared: Vec<_> = shared.iter().filter(|(_, files)| reports(files)).collect();
    let calls = |files: &Files| {
        let mut called = files.iter().flat_map(|(_, source)| &source.parts);
        called.any(|name| parts.iter().any(|(_, part)| part == name))
    };
    let is_named = |(name, files): &&&(String, Files)| {
        reports(files)
            || shared.iter().any(|(crate_name, _)| depends(name, crate_name))
            || calls(files)
    };
    let named: Vec<_> = programs.iter().filter(is_named).collect();
    if named.len() == programs.len() {
        return "all".to_owned();
    }
    named.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Returns the page of all reasons, in the order of the alphabet.
pub(crate) fn page(reporters: &Reporters) -> String {
    let mut all: Vec<_> = Reason::ALL.to_vec();
    all.sort_by_key(|reason| reason.as_str());
    let row = |reason: &Reason| {
        let exits = reason.exits().iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let cell = |text: &str| text.replace('|', "\\|");
        let (meaning, action) = (cell(reason.meaning()), cell(reason.action()));
        format!(
            "| `{reason}` | {meaning} | {action} | {exits} | {} |\n",
            programs(*reason, reporters)
        )
    };
    HEAD.to_owned() + &all.iter().map(row).collect::<String>()
}
