//! SOPS files (<https://getsops.io/docs/>) with age recipients. `sops` can edit what this module writes.
//!
//! ```text
//! text ── file ──► nodes, metadata
//! metadata ── identities ──► data key ── cipher ──► values
//! values ── rule ──► MAC, which must equal the MAC in the metadata
//! ```
//!
//! **Invariant:** no value is returned before the MAC over all values has been verified.

mod cipher;
mod file;
mod node;
mod rule;
pub(crate) mod write;

use std::path::{Path, PathBuf};

use age::DecryptError;
use data_encoding::HEXUPPER;
use sha2::{Digest as _, Sha512};

use crate::read::read;
use crate::{Error, Identities, Secret, seal};
use cipher::{DataKey, Opened};
use file::Metadata;
use node::{Leaf, Node, Value};
use rule::Rule;

/// Largest SOPS file, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes before the first value of a MAC that covers encrypted values only, so that the MAC differs
/// from one over all values. Source: `MACOnlyEncryptedInitialization` in `sops.go` of getsops/sops.
const ENCRYPTED_ONLY: [u8; 32] = [
    0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b,
    0x0b, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
];

/// Decrypted SOPS file whose MAC was verified.
#[derive(Debug)]
pub struct Sops {
    file: PathBuf,
    documents: Vec<Node>,
}

impl Sops {
    /// Decrypts `file`. The extension decides the format: YAML, JSON or dotenv.
    ///
    /// # Errors
    ///
    /// The file is not encrypted, is encrypted for others, or was changed without `sops`.
    pub fn open(file: &Path, identities: &Identities) -> Result<Self, Error> {
        let text = read(file, FILE_BYTES_MAX)?;
        let (documents, metadata) = file::read(file, &text)?;
        let rule = Rule::new(&metadata)
            .map_err(|what| Error::SopsInvalid { file: file.to_owned(), what })?;
        let key = data_key(file, &metadata, identities)?;
        let mut opening = Opening { file, key, rule, metadata: &metadata, mac: Sha512::new() };
        if metadata.mac_only_encrypted {
            opening.mac.update(ENCRYPTED_ONLY);
        }
        let mut opened = Vec::new();
        for document in documents {
            opened.extend(opening.node(&mut Vec::new(), document)?);
        }
        opening.finish()?;
        Ok(Self { file: file.to_owned(), documents: opened })
    }

    /// Returns the keys at the top level.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> Vec<String> {
        self.documents.iter().flat_map(Node::keys).map(str::to_owned).collect()
    }

    /// Returns the age recipients of `file` without decrypting the file.
    pub(crate) fn recipients(file: &Path) -> Result<Vec<String>, Error> {
        let (_, metadata) = file::read(file, &read(file, FILE_BYTES_MAX)?)?;
        Ok(metadata.age.into_iter().map(|entry| entry.recipient).collect())
    }

    /// Returns the value at `key`, for example `a.b`, where a number is an index into a list. A map or a
    /// list is returned as JSON.
    ///
    /// # Errors
    ///
    /// There is no value at `key`, or the value is not encrypted.
    pub fn get(&self, key: &str) -> Result<Secret, Error> {
        let found = self.documents.iter().find_map(|document| document.at(key.split('.')));
        let found = found.ok_or_else(|| Error::SopsNoKey {
            file: self.file.clone(),
            key: key.to_owned(),
            has: self.documents.iter().flat_map(Node::keys).map(str::to_owned).collect(),
        })?;
        if found.is_encrypted() {
            Ok(found.secret())
        } else {
            Err(Error::InClear(format!("`{key}` of {}", self.file.display())))
        }
    }
}

/// Decrypts the data key of `file` with one of `identities`.
fn data_key(file: &Path, metadata: &Metadata, identities: &Identities) -> Result<DataKey, Error> {
    let invalid = |what: &str| Error::SopsInvalid { file: file.to_owned(), what: what.to_owned() };
    if metadata.age.is_empty() {
        return Err(invalid("its metadata names no age recipient"));
    }
    for recipient in &metadata.age {
        match seal::open(identities, &recipient.sealed_key) {
            Ok(key) => {
                return DataKey::new(&key).ok_or_else(|| invalid("its data key is not 32 bytes"));
            }
            Err(DecryptError::NoMatchingKeys) => {}
            Err(_) => return Err(invalid("an encrypted copy of its data key is damaged")),
        }
    }
    let why = identities.places().map(|places| format!("{places} cannot decrypt it"));
    Err(Error::SopsNotForUs {
        file: file.to_owned(),
        recipients: metadata.age.iter().map(|entry| entry.recipient.clone()).collect(),
        why: why.unwrap_or_else(|| "no age identity was found".to_owned()),
    })
}

/// State of the decryption of one file.
struct Opening<'a> {
    file: &'a Path,
    key: DataKey,
    rule: Rule,
    metadata: &'a Metadata,
    mac: Sha512,
}

impl Opening<'_> {
    /// Decrypts every value below `path`, in order. An encrypted comment of a list looks like an item,
    /// so comments are dropped.
    fn node(&mut self, path: &mut Vec<String>, node: Node) -> Result<Option<Node>, Error> {
        Ok(Some(match node {
            Node::Map(entries) => {
                let mut opened = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    path.push(key.clone());
                    opened.extend(self.node(path, value)?.map(|value| (key, value)));
                    path.pop();
                }
                Node::Map(opened)
            }
            Node::List(items) => {
                let mut opened = Vec::with_capacity(items.len());
                for item in items {
                    opened.extend(self.node(path, item)?);
                }
                Node::List(opened)
            }
            Node::Leaf(leaf) => return self.leaf(path, leaf.value),
        }))
    }

    fn leaf(&mut self, path: &[String], value: Value) -> Result<Option<Node>, Error> {
        if matches!(value, Value::Null) {
            return Ok(Some(Node::Leaf(Leaf { value, encrypted: false }))); // SOPS leaves null out of the MAC
        }
        let encrypted = match &value {
            Value::Text(text) => self.rule.encrypts(path).unwrap_or(cipher::is_encrypted(text)),
            _ => self.rule.encrypts(path).unwrap_or(false),
        };
        let value = match value {
            value if !encrypted => value,
            Value::Text(text) if text.is_empty() => Value::Text(text), // SOPS does not encrypt an empty text
            Value::Text(text) => {
                let changed = |what| self.changed(format!("`{}` {what}", path.join(".")));
                let context = path.join(":") + ":";
                match self.key.open(&text, &context).map_err(changed)? {
                    Opened::Value(value) => value,
                    Opened::Comment => return Ok(None), // SOPS leaves comments out of the MAC
                }
            }
            _ => return Err(self.changed(format!("`{}` is not encrypted", path.join(".")))),
        };
        if encrypted || !self.metadata.mac_only_encrypted {
            self.mac.update(value.mac_bytes());
        }
        Ok(Some(Node::Leaf(Leaf { value, encrypted })))
    }

    /// Compares the MAC over the decrypted values with the MAC in the metadata.
    fn finish(self) -> Result<(), Error> {
        let changed = |what| self.changed(format!("its MAC {what}"));
        let expected = self.key.open(&self.metadata.mac, &self.metadata.lastmodified);
        let Opened::Value(expected) = expected.map_err(changed)? else {
            return Err(self.changed("its MAC is a comment".to_owned()));
        };
        let computed = HEXUPPER.encode(&self.mac.clone().finalize());
        if *expected.mac_bytes() == *computed.as_bytes() {
            Ok(())
        } else {
            Err(self.changed("its MAC does not match its values".to_owned()))
        }
    }

    fn changed(&self, what: String) -> Error {
        Error::SopsTampered { file: self.file.to_owned(), what }
    }
}
