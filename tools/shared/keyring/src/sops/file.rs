//! The three formats, and where each keeps its metadata.

use std::path::Path;

use serde_saphyr::MergeKeyPolicy;

use super::node::{Leaf, Node, Value};
use crate::{Error, Secret};

/// What a file says of itself.
pub(super) struct Metadata {
    pub(super) age: Vec<Recipient>,
    pub(super) mac: String,
    pub(super) lastmodified: String,
    pub(super) mac_only_encrypted: bool,
    /// By the name that the metadata has for each.
    pub(super) rules: Vec<(&'static str, String)>,
}

/// One who can open it.
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

/// The name of the metadata in a map, and the beginning of their names in a dotenv file.
const SOPS: &str = "sops";

/// The documents in `text` without the metadata, and the metadata.
pub(super) fn read(file: &Path, text: &Secret) -> Result<(Vec<Node>, Metadata), Error> {
    let garbled = |what: &str| Error::SopsGarbled { file: file.to_owned(), what: what.to_owned() };
    let in_clear = || Error::InClear(file.display().to_string());
    let text = std::str::from_utf8(text.expose()).map_err(|_| garbled("it is not text"))?;
    let name = file.file_name().map(|it| it.to_string_lossy()).unwrap_or_default();
    let ends = |ending: &str| name.ends_with(ending);
    let mut documents = if ends(".yaml") || ends(".yml") {
        yaml(text).ok_or_else(|| garbled("it is not YAML"))?
    } else if ends(".env") {
        vec![dotenv(text).ok_or_else(|| garbled("it is not dotenv"))?]
    } else if ends(".ini") {
        return Err(garbled("INI is not read here: use YAML, JSON or dotenv"));
    } else {
        // JSON, and whatever SOPS puts into JSON. What is none was never encrypted.
        vec![
            serde_json::from_str(text)
                .map_err(|_| if ends(".json") { garbled("it is not JSON") } else { in_clear() })?,
        ]
    };
    // Every document has a copy; the first counts.
    let mut metadata = None;
    for document in documents.iter_mut().rev() {
        let Node::Map(entries) = document else {
            return Err(garbled("it is not a map"));
        };
        let found = entries.iter().position(|(key, _)| key == SOPS);
        metadata = found.map(|found| entries.remove(found).1);
    }
    let metadata = metadata.ok_or_else(in_clear)?;
    let metadata = Metadata::read(&metadata).map_err(garbled)?;
    Ok((documents, metadata))
}

fn yaml(text: &str) -> Option<Vec<Node>> {
    let options = serde_saphyr::options! {
        strict_booleans: true, // `no` is a word
        leading_zero_numbers_as_strings: true,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).ok()
}

/// Lines of `KEY=value`, in which a line break is written `\n`.
fn dotenv(text: &str) -> Option<Node> {
    let (mut entries, mut metadata) = (Vec::new(), Vec::new());
    for line in text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once('=')?;
        let value = Node::text(&value.replace("\\n", "\n"));
        match key.strip_prefix(SOPS).and_then(|it| it.strip_prefix('_')) {
            Some(key) => metadata.push((key.to_owned(), value)),
            None => entries.push((key.to_owned(), value)),
        }
    }
    if !metadata.is_empty() {
        entries.push((SOPS.to_owned(), unflattened(metadata)));
    }
    Some(Node::Map(entries))
}

/// The recipients of a dotenv file (`age__list_0__map_enc`, …) as the list that others have.
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
            return Err("it needs several keys at once (key_groups), which is not read here");
        }
        let text = |key| sops.text_at(key).map(str::to_owned);
        let age = match sops.at(["age"].into_iter()) {
            Some(Node::List(items)) => items.iter().map(Recipient::read).collect(),
            Some(Node::Leaf(Leaf { value: Value::Null, .. })) | None => Some(Vec::new()),
            Some(_) => None,
        };
        let only = match sops.at(["mac_only_encrypted"].into_iter()) {
            Some(Node::Leaf(Leaf { value: Value::Bool(only), .. })) => *only,
            Some(_) => text("mac_only_encrypted").is_some_and(|it| it == "true"),
            None => false,
        };
        Ok(Self {
            age: age.ok_or("its recipients cannot be read")?,
            mac: text("mac").ok_or("it has no MAC")?,
            lastmodified: text("lastmodified")
                .ok_or("it does not say when it was last modified")?,
            mac_only_encrypted: only,
            rules: RULES.into_iter().filter_map(|it| text(it).map(|text| (it, text))).collect(),
        })
    }
}

impl Recipient {
    fn read(node: &Node) -> Option<Self> {
        let text = |key| node.text_at(key).map(str::to_owned);
        Some(Self { recipient: text("recipient")?, sealed_key: text("enc")? })
    }
}
