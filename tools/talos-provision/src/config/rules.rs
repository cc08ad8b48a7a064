//! Rules of Talos's own validator for merged configurations, so that a node's refusal is found before a server is
//! ordered.
//!
//! The rules follow `pkg/machinery/config/types/v1alpha1/v1alpha1_validation.go` of Talos v1.13.9 and the methods
//! `Validate` beside it. `tests/published` compares the verdicts with that code. Expressions in CEL are not evaluated.
//! `flags` follows checks that Talos makes only when it starts a component.

mod flags;
mod kinds;
mod machine;
mod names;

use serde_json::Value;

use super::scalar;
use crate::spec::Role;

/// Part of a configuration that a node would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Index of the document.
    pub(crate) document: usize,
    /// JSON pointer of the value.
    pub(crate) path: String,
    /// Reason and remedy, without the value, which may be secret.
    pub(crate) message: String,
}

/// Returns everything in a merged configuration that a node with this role would refuse.
pub(crate) fn check(documents: &[Value], role: Role) -> Vec<Refusal> {
    let mut report = Report::default();
    let main = documents.iter().position(|document| document["kind"].is_null());
    let root = main.map_or(&Value::Null, |index| &documents[index]);
    report.main = main.unwrap_or_default();
    for (index, document) in documents.iter().enumerate() {
        report.document = index;
        match document["kind"].as_str() {
            None => {
                machine::check(&mut report, document, role);
                flags::check(&mut report, document);
            }
            Some(kind) => kinds::check(&mut report, (kind, document), root, &documents[..index]),
        }
    }
    report.refusals
}

/// Refusals of one configuration, and the document that is checked now.
#[derive(Default)]
struct Report {
    document: usize,
    /// Index of the document with `machine`.
    main: usize,
    refusals: Vec<Refusal>,
}

impl Report {
    fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (path.into(), message.into());
        self.refusals.push(Refusal { document: self.document, path, message });
    }

    /// Reports `message` unless the value fulfils the rule.
    fn require(&mut self, fits: bool, path: impl Into<String>, message: impl Into<String>) {
        if !fits {
            self.refuse(path, message);
        }
    }

    /// Reports `message` about the document with `machine` unless the value fulfils the rule.
    fn require_of_main(&mut self, fits: bool, path: &str, message: &str) {
        if !fits {
            let (document, path, message) = (self.main, path.to_owned(), message.to_owned());
            self.refusals.push(Refusal { document, path, message });
        }
    }

    /// Reports every text in the list at `path` that does not fulfil `rule`.
    fn each(&mut self, root: &Value, path: &str, rule: impl Fn(&str) -> bool, message: &str) {
        for (index, item) in list(root, path).iter().enumerate() {
            let fits = item.as_str().is_some_and(&rule);
            self.require(fits, format!("{path}/{index}"), message);
        }
    }
}

/// Returns the text at `path`, empty if there is none.
fn text<'a>(root: &'a Value, path: &str) -> &'a str {
    root.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(root: &'a Value, path: &str) -> &'a [Value] {
    root.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn entries<'a>(root: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    root.pointer(path).and_then(Value::as_object).into_iter().flatten()
}

fn is_true(root: &Value, path: &str) -> bool {
    root.pointer(path) == Some(&Value::Bool(true))
}

fn is_set(root: &Value, path: &str) -> bool {
    root.pointer(path).is_some_and(|value| !value.is_null())
}

fn number(root: &Value, path: &str) -> i64 {
    root.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

/// Returns the nanoseconds of the duration at `path`, 0 if there is none.
fn duration(root: &Value, path: &str) -> i64 {
    scalar::duration(text(root, path)).unwrap_or_default()
}

/// Returns whether a text is a network or an address, after an optional `!`.
fn is_subnet(text: &str) -> bool {
    let text = text.strip_prefix('!').unwrap_or(text);
    scalar::is_prefix(text) || scalar::is_address(text)
}

/// URL, split as Go splits it.
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    port: &'a str,
    path: &'a str,
}

fn url(text: &str) -> Url<'_> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", ""));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest[..end].rsplit('@').next().unwrap_or_default();
    let path = rest[end..].split(['?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    Url { scheme, host, port, path }
}

/// Returns whether a text is a URL with a host, and with a port from 1 to 65535 if it has one.
fn is_endpoint(text: &str) -> bool {
    let url = url(text);
    !url.host.is_empty()
        && (url.port.is_empty() || url.port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Returns whether a private or public key of a tunnel has 32 bytes in base64.
fn is_wireguard_key(text: &str) -> bool {
    data_encoding::BASE64.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == 32)
}

const WIREGUARD_KEY: &str = "is not a key of WireGuard: 32 bytes in base64";

/// Reports encryption keys with a used slot, and keys that have no source.
fn encryption_keys(report: &mut Report, root: &Value, path: &str) {
    let keys = list(root, path);
    report.require(!keys.is_empty(), path, "has no encryption key: declare at least one");
    for (index, key) in keys.iter().enumerate() {
        let path = format!("{path}/{index}");
        let slot = number(key, "/slot");
        let used = keys[..index].iter().any(|earlier| number(earlier, "/slot") == slot);
        report.require(!used, format!("{path}/slot"), "is the slot of another key");
        let source =
            ["/nodeID", "/static", "/kms", "/tpm"].iter().any(|source| is_set(key, source));
        report.require(source, path, "has none of `nodeID`, `static`, `kms` and `tpm`");
    }
}
