//! Restores a drain: fetches packs, verifies and decrypts them, and extracts the archives to a folder.

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::Path;

use contract::{Copied, Envelope, Project, Source, VerifiedReceipt};
use documents::Declared;
use secrets::Identities;

use crate::clients::store;
use crate::spec::Drain;
use crate::{Error, extract, pack};

/// Maximum size of one object.
const PACK_BYTES_MAX: u64 = 2 * pack::PACK_BYTES;
/// Maximum size of a receipt.
const RECEIPT_BYTES_MAX: u64 = 256 << 20;

/// Restores every source in the receipt of the Drain to `folder`, one folder for each source.
pub(crate) fn restore(
    project: &Declared<Project>,
    context: &documents::Context<'_, Drain>,
    folder: &Path,
    chosen: Option<&str>,
) -> Result<(), Error> {
    let cannot = |source| Error::File { what: "write", path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(cannot)?;
    if fs::read_dir(folder).map_err(cannot)?.next().is_some() {
        return Err(Error::NotEmpty { path: folder.to_owned() });
    }
    let store = store::Reader::open(store::declared(&project.spec)?)?;
    let receipt = receipt(project, context, &store, chosen)?;
    let identities = Identities::from_environment()?;
    for copied in &receipt.sources {
        let name = match &copied.from {
            Source::Claim(entry) => format!("claim/{}", entry.claim),
            Source::Forge { repository, .. } => format!("forge/{repository}"),
        };
        let doing = documents::step(context.document.name.as_str(), "restore");
        let into = folder.join(&name);
        let cannot = |source| Error::File { what: "write", path: into.clone(), source };
        fs::create_dir_all(&into).map_err(cannot)?;
        let mut archive =
            Packs { store: &store, identities: &identities, copied, next: 0, pack: None };
        let entries = extract::extract(&mut archive, &into)?;
        if entries != copied.entries {
            let why = format!("it has {entries} entries, and the receipt says {}", copied.entries);
            return Err(Error::Tampered { object: name, why });
        }
        doing.done(format_args!("{} ({entries} entries)", into.display()));
    }
    Ok(())
}

/// Reads the chosen receipt, otherwise the one in the document's status, otherwise the only one in the
/// store.
fn receipt(
    project: &Declared<Project>,
    context: &documents::Context<'_, Drain>,
    store: &store::Reader,
    chosen: Option<&str>,
) -> Result<VerifiedReceipt, Error> {
    let (drain, project_name) = (context.document.name.as_str(), project.name.as_str());
    let tampered = |object: &str, why: &str| Error::Tampered {
        object: object.to_owned(),
        why: why.to_owned(),
    };
    let in_status = context.stream.status(context.document).pointer("/evidence/0/envelope");
    let envelope: Envelope = if let (Some(in_status), None) = (in_status, chosen) {
        let read = serde_json::from_value(in_status.clone());
        read.map_err(|_| tampered("the receipt in the status", "it is not a receipt"))?
    } else {
        let listed;
        let object = if let Some(chosen) = chosen {
            chosen
        } else {
            listed = only(
                store.list(&format!("{project_name}/{drain}/"))?,
                &format!("{project_name}/{drain}/"),
            )?;
            listed.as_str()
        };
        let text = store.get(object, RECEIPT_BYTES_MAX)?;
        let text = text.ok_or_else(|| Error::Missing { what: format!("the receipt {object}") })?;
        serde_json::from_slice(&text).map_err(|_| tampered(object, "it is not a receipt"))?
    };
    Ok(envelope.open(drain, project_name, &contract::receipt_keys(project)?)?)
}

/// Returns the only receipt among `keys`, or an error if there are none or several.
fn only(keys: Vec<String>, under: &str) -> Result<String, Error> {
    let is_receipt = |key: &String| {
        let name = key.rsplit('/').next().unwrap_or_default();
        name.strip_suffix(".json").is_some_and(|stem| stem.starts_with("receipt"))
    };
    let mut receipts: Vec<_> = keys.into_iter().filter(is_receipt).collect();
    match receipts.len() {
        0 => Err(Error::Missing { what: format!("a receipt under {under}") }),
        1 => Ok(receipts.remove(0)),
        _ => Err(Error::Ambiguous { receipts }),
    }
}

/// Reader of a source's archive, which fetches one pack at a time.
struct Packs<'a> {
    store: &'a store::Reader,
    identities: &'a Identities,
    copied: &'a Copied,
    next: usize,
    pack: Option<Box<dyn Read>>,
}

impl Packs<'_> {
    fn open(&self, pack: &contract::Pack) -> Result<Box<dyn Read>, Error> {
        documents::check_interrupt()?;
        let object = &pack.object;
        let tampered = |why: &str| Error::Tampered { object: object.clone(), why: why.to_owned() };
        let bytes = self.store.get(object, pack.bytes.min(PACK_BYTES_MAX))?;
        let bytes = bytes.ok_or_else(|| tampered("it is not there"))?;
        if pack::sha256(&bytes) != pack.sha256 {
            return Err(tampered("its SHA-256 differs"));
        }
        let reader = secrets::open_with(self.identities, Cursor::new(bytes))?;
        let reader = zstd::Decoder::new(reader).map_err(|_| tampered("it is not compressed"))?;
        Ok(Box::new(reader))
    }
}

impl Read for Packs<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(pack) = &mut self.pack {
                let read = pack.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            let Some(next) = self.copied.packs.get(self.next) else { return Ok(0) };
            self.pack = Some(self.open(next).map_err(io::Error::other)?);
            self.next += 1;
        }
    }
}
