//! Formats of SOPS files (YAML, JSON, dotenv), and the position of the metadata in each.

use std::path::Path;

use serde_saphyr::MergeKeyPolicy;

use super::node::{Leaf, Node, Value};
use crate::{Error, Secret};

/// Metadata of a SOPS file.
pub(super) struct Metadata {
    pub(super) age: Vec<Recipient>,
    pub(super) mac: String,
    pub(super) lastmodified: String,
    pub(super) mac_only_encrypted: bool,
    /// Names and values of the rules that decide which values are encrypted.
    pub(super) rules: Vec<(&'static str, String)>,
}

/// Recipient of a SOPS file, with the data key encrypted for this recipient.
pub(super) struct Recipient {
    pub(super) recipient: String,
    pub(super) sealed_key: String,
}

const RULES: [&str; 6] = [
    "unencrypted_suffix",
    "encrypted_suffix",
    "unencrypted_regex",
    "encrypted_regex",
    "unencrypted_comment_regex",
    "encrypted_comment_regex",
];

/// Key of the metadata in a map, and the beginning of each metadata key in a dotenv file.
const SOPS: &str = "sops";

/// Splits `text` into its documents and its metadata.
pub(super) fn read(file: &Path, text: &Secret) -> Result<(Vec<Node>, Metadata), Error> {
    let invalid = |what: &str| Error::SopsInvalid { file: file.to_owned(), what: what.to_owned() };
    let in_clear = || Error::InClear(file.display().to_string());
    let text = std::str::from_utf8(text.expose()).map_err(|_| invalid("it is not text"))?;
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let ends = |ending: &str| name.ends_with(ending);
    let mut documents = if ends(".yaml") || ends(".yml") {
        yaml(text).ok_or_else(|| invalid("it is not YAML"))?
    } else if ends(".env") {
        vec![dotenv(text).ok_or_else(|| invalid("it is not dotenv"))?]
    } else if ends(".ini") {
        return Err(invalid("INI is not supported: use YAML, JSON or dotenv"));
    } else {
        // SOPS wraps a file of any other format in JSON, so a file that is not JSON is not encrypted.
        vec![
            serde_json::from_str(text)
                .map_err(|_| if ends(".json") { invalid("it is not JSON") } else { in_clear() })?,
        ]
    };
    // SOPS writes the metadata into every document, and reads the first copy.
    let mut metadata = None;
    for document in documents.iter_mut().rev() {
        let Node::Map(entries) = document else {
            return Err(invalid("its top level is not a map"));
        };
        let found = entries.iter().position(|(key, _)| key == SOPS);
        metadata = found.map(|found| entries.remove(found).1);
    }
    let metadata = metadata.ok_or_else(in_clear)?;
    let metadata = Metadata::read(&metadata).map_err(invalid)?;
    Ok((documents, metadata))
}

fn yaml(text: &str) -> Option<Vec<Node>> {
    let options = serde_saphyr::options! {
        strict_booleans: true, // `no` is a string in YAML 1.2
        leading_zero_numbers_as_strings: true,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).ok()
}

/// Parses lines of `KEY=value`, in which a line break is written `\n`.
fn dotenv(text: &str) -> Option<Node> {
    let (mut entries, mut metadata) = (Vec::new(), Vec::new());
    for line in text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once('=')?;
        let value = Node::text(&value.replace("\\n", "\n"));
        match key.strip_prefix(SOPS).and_then(|rest| rest.strip_prefix('_')) {
            Some(key) => metadata.push((key.to_owned(), value)),
            None => entries.push((key.to_owned(), value)),
        }
    }
    if !metadata.is_empty() {
        entries.push((SOPS.to_owned(), unflattened(metadata)));
    }
    Some(Node::Map(entries))
}

/// Collects the recipients of a dotenv file (`age__list_0__map_enc`, …) into the list that the other
/// formats have.
fn unflattened(mut flat: Vec<(String, Node)>) -> Node {
    let mut recipients = Vec::new();
    loop {
        let prefix = format!("age__list_{}__map_", recipients.len());
        let mut recipient = Vec::new();
        for (key, value) in &mut flat {
            if let Some(key) = key.strip_prefix(&prefix) {
                recipient.push((key.to_owned(), std::mem::replace(value, Value::Null.into())));
            }
        }
        if recipient.is_empty() {
            flat.push(("age".to_owned(), Node::List(recipients)));
            return Node::Map(flat);
        }
        recipients.push(Node::Map(recipient));
    }
}

impl Metadata {
    fn read(sops: &Node) -> Result<Self, &'static str> {
        if sops.at(["key_groups"].into_iter()).is_some() {
            return Err(
                "its metadata requires several keys at once (key_groups), which is not supported",
            );
        }
        let text = |key| sops.text_at(key).map(str::to_owned);
        let age = match sops.at(["age"].into_iter()) {
            Some(Node::List(items)) => items.iter().map(Recipient::read).collect(),
            Some(Node::Leaf(Leaf { value: Value::Null, .. })) | None => Some(Vec::new()),
            Some(_) => None,
        };
        let mac_only_encrypted = match sops.at(["mac_only_encrypted"].into_iter()) {
            Some(Node::Leaf(Leaf { value: Value::Bool(value), .. })) => *value,
            Some(_) => text("mac_only_encrypted").is_some_and(|text| text == "true"),
            None => false,
        };
        Ok(Self {
            age: age.ok_or("its recipients cannot be read")?,
            mac: text("mac").ok_or("it has no MAC")?,
            lastmodified: text("lastmodified").ok_or("it has no `lastmodified`")?,
            mac_only_encrypted,
            rules: RULES.into_iter().filter_map(|rule| Some((rule, text(rule)?))).collect(),
        })
    }
}

impl Recipient {
    fn read(node: &Node) -> Option<Self> {
        let text = |key| node.text_at(key).map(str::to_owned);
        Some(Self { recipient: text("recipient")?, sealed_key: text("enc")? })
    }
}
