//! The way out of the store: packs are fetched, proven, opened, joined and written to a folder.

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::Path;

use keyring::{Copied, Envelope, Identities, Project, ReceiptKey, Source, VerifiedReceipt};
use phase::Declared;

use crate::{Error, Job, extract, pack, store, store_of};

/// How large one object, and how large a receipt may be.
const PACK_BYTES_MAX: u64 = 2 * pack::PACK_BYTES;
const RECEIPT_BYTES_MAX: u64 = 16 << 20;

/// Writes everything that the receipt of the Drain names to `folder`, one folder for each source.
pub(crate) fn restore(
    project: &Declared<Project>,
    job: &Job<'_>,
    folder: &Path,
) -> Result<(), Error> {
    let cannot = |source| Error::File { what: "write", path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(cannot)?;
    if fs::read_dir(folder).map_err(cannot)?.next().is_some() {
        return Err(Error::NotEmpty { path: folder.to_owned() });
    }
    let store = store::Reader::open(store_of(&project.spec)?)?;
    let keys = keyring::receipt_keys(project)?;
    let receipt = receipt(project, job, (&store, &keys))?;
    let identities = Identities::from_environment()?;
    for copied in &receipt.sources {
        let name = match &copied.from {
            Source::Claim(entry) => format!("claim/{}", entry.claim),
            Source::Forge { repository, .. } => format!("forge/{repository}"),
        };
        let doing = phase::begin(job.own.name.as_str(), "restore");
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

/// The receipt in the document's status, or else the only one in the store.
fn receipt(
    project: &Declared<Project>,
    job: &Job<'_>,
    (store, keys): (&store::Reader, &[ReceiptKey]),
) -> Result<VerifiedReceipt, Error> {
    let (drain, of) = (job.own.name.as_str(), project.name.as_str());
    let tampered = |object: &str, why: &str| Error::Tampered {
        object: object.to_owned(),
        why: why.to_owned(),
    };
    let told = job.stream.status(job.own).pointer("/evidence/0/envelope");
    let envelope: Envelope = if let Some(told) = told {
        let read = serde_json::from_value(told.clone());
        read.map_err(|_| tampered("the receipt in the status", "it is no receipt"))?
    } else {
        let objects = store.list(&format!("{of}/{drain}/"))?;
        let objects: Vec<_> =
            objects.iter().filter(|object| object.ends_with("/receipt.json")).collect();
        let [object] = objects.as_slice() else {
            let what = match objects.as_slice() {
                [] => format!("a receipt under {of}/{drain}/"),
                _ => {
                    format!("a single receipt (but {}), or a status that holds one", objects.len())
                }
            };
            return Err(Error::Missing { what });
        };
        let text = store.get(object, RECEIPT_BYTES_MAX)?.unwrap_or_default();
        serde_json::from_slice(&text).map_err(|_| tampered(object, "it is no receipt"))?
    };
    Ok(envelope.open(drain, of, keys)?)
}

/// The archive of one source, out of its packs.
struct Packs<'a> {
    store: &'a store::Reader,
    identities: &'a Identities,
    copied: &'a Copied,
    next: usize,
    pack: Option<Box<dyn Read>>,
}

impl Packs<'_> {
    fn open(&self, pack: &keyring::Pack) -> Result<Box<dyn Read>, Error> {
        phase::uninterrupted()?;
        let object = &pack.object;
        let tampered = |why: &str| Error::Tampered { object: object.clone(), why: why.to_owned() };
        let bytes = self.store.get(object, pack.bytes.min(PACK_BYTES_MAX))?;
        let bytes = bytes.ok_or_else(|| tampered("it is not there"))?;
        if pack::sha256(&bytes) != pack.sha256 {
            return Err(tampered("its SHA-256 differs"));
        }
        let reader = keyring::open_with(self.identities, Cursor::new(bytes))?;
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
