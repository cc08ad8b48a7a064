//! Copies one source into the store and reads the copy back.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use contract::{Pack, Receipt};
use data_encoding::HEXLOWER;
use hmac::Mac as _;
use secrets::AgeRecipient;

use crate::clients::store;
use crate::clients::store::Metadata;
use crate::desired::Desired;
use crate::observe::Observation;
use crate::pack::{PACK_BYTES, Packer, Sealed, Whole, keyed, sha256};
use crate::write_session::WriteSession;
use crate::{Error, archive};

/// Metadata key of an object: SHA-256 of its bytes.
const SHA256: &str = "sha256";
/// Metadata key of an object: keyed digest that proves that this program wrote it.
const PROOF: &str = "proof";
/// Maximum names that are tried for a pack, because an object of that name may be damaged.
const NAMES_MAX: u32 = 8;
/// Interval of progress messages during a long copy.
const PROGRESS: Duration = Duration::from_secs(30);

/// A source that reports its progress at an interval.
struct Progress<'a, R> {
    drain: &'a str,
    name: &'a str,
    source: R,
    bytes: u64,
    begin: Instant,
    next: Instant,
}

impl<'a, R: Read> Progress<'a, R> {
    fn new(drain: &'a str, name: &'a str, source: R) -> Self {
        let begin = Instant::now();
        Self { drain, name, source, bytes: 0, begin, next: begin + PROGRESS }
    }
}

impl<R: Read> Read for Progress<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.bytes += read as u64;
        if Instant::now() >= self.next {
            self.next = Instant::now() + PROGRESS;
            let rate = self.bytes / self.begin.elapsed().as_secs().max(1);
            let text = format!("{}: {} bytes read, {rate} bytes/s", self.name, self.bytes);
            documents::note(self.drain, text);
        }
        Ok(read)
    }
}

/// Copy of one source into one folder of the store.
pub(crate) struct Copy<'a> {
    pub(crate) session: &'a WriteSession<'a>,
    pub(crate) desired: &'a Desired<'a>,
    pub(crate) folder: String,
}

impl Copy<'_> {
    /// Copies `source` into the store, and returns the counts for people.
    pub(crate) fn copy(
        &self,
        name: &str,
        source: impl Read,
        copied: &mut contract::Copied,
    ) -> Result<String, Error> {
        let mut packs = Vec::new();
        let whole = self.pack(name, source, &self.desired.recipients, |pack| {
            packs.push(self.put(&format!("{:05}", pack.number), pack)?);
            Ok(())
        })?;
        copied.manifest = self.put("manifest", whole.manifest)?;
        (copied.bytes, copied.entries) = (whole.bytes, whole.entries);
        (copied.fingerprint, copied.packs) = (whole.fingerprint, packs);
        let (bytes, packs) = (copied.bytes, copied.packs.len());
        Ok(format!("{} entries, {bytes} bytes, {packs} packs", copied.entries))
    }

    /// Computes the fingerprint of the source's current content.
    pub(crate) fn fingerprint(&self, name: &str, source: impl Read) -> Result<String, Error> {
        let doing = documents::step(self.desired.drain, "look again");
        let whole = self.pack(name, source, &[], |_| Ok(()))?;
        doing.done(name);
        Ok(whole.fingerprint)
    }

    fn pack(
        &self,
        name: &str,
        mut source: impl Read,
        recipients: &[AgeRecipient],
        finished: impl FnMut(Sealed) -> Result<(), Error>,
    ) -> Result<Whole, Error> {
        let key = &self.session.keys.fingerprint;
        let mut packer = Packer::new(key, recipients, PACK_BYTES, finished)?;
        let mut source = Progress::new(self.desired.drain, name, &mut source);
        archive::copy(&mut source, &mut packer).map_err(|error| match error {
            Error::Read { source, .. } if documents::is_interrupted() => {
                documents::detail(name, source);
                Error::Stream(documents::Error::Interrupted)
            }
            Error::Read { source, .. } => Error::Read { source_name: name.to_owned(), source },
            other => other,
        })?;
        packer.finish()
    }

    /// Writes a pack to the store. An undamaged object of ours is adopted. A damaged or foreign object is
    /// left in place, and the pack gets another name.
    fn put(&self, name: &str, mut sealed: Sealed) -> Result<Pack, Error> {
        let fingerprint = HEXLOWER.encode(&sealed.fingerprint[..8]);
        for number in 0..NAMES_MAX {
            self.session.check()?;
            let again = if number == 0 { String::new() } else { format!("-{number}") };
            let object = format!("{}/{name}-{fingerprint}{again}.zst.age", self.folder);
            if let Some(pack) = self.put_at(&object, &mut sealed)? {
                return Ok(pack);
            }
            let text =
                format!("{object} is damaged or not ours: the pack is written under another name");
            documents::note(self.desired.drain, text);
        }
        let object = format!("{}/{name}-{fingerprint}", self.folder);
        let why = format!("{NAMES_MAX} objects of that name are damaged");
        Err(Error::Tampered { object, why })
    }

    /// Writes a pack to `object`. Returns `None` if another object has that name.
    fn put_at(&self, object: &str, sealed: &mut Sealed) -> Result<Option<Pack>, Error> {
        let store = self.session.store;
        let bytes = sealed.file.len() as u64;
        if let Some(found) = store.head(object)? {
            return self.adopted(object, sealed, &found);
        }
        let digest = sha256(&sealed.file);
        let proof = self.proof(object, &sealed.fingerprint, &digest, bytes);
        let metadata = [(SHA256, &digest), (PROOF, &proof)];
        let metadata: Metadata =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        // Clone the bytes, because a damaged object may have this name, and then another name is tried.
        if store.create(object, sealed.file.clone(), &metadata)? {
            return Ok(Some(Pack { object: object.to_owned(), sha256: digest, bytes }));
        }
        // A response was lost, or another run was faster.
        let found = store.head(object)?.ok_or_else(|| {
            let why = "the store reported that it exists, and then that it does not".to_owned();
            Error::Tampered { object: object.to_owned(), why }
        })?;
        self.adopted(object, sealed, &found)
    }

    /// Returns the existing object if this program wrote it with this content and it is undamaged. The
    /// object is fetched, because the metadata stays valid when the bytes are damaged.
    fn adopted(
        &self,
        object: &str,
        sealed: &Sealed,
        found: &store::StoredObject,
    ) -> Result<Option<Pack>, Error> {
        let claimed = found.metadata.get(SHA256).cloned().unwrap_or_default();
        let proof = self.proof(object, &sealed.fingerprint, &claimed, found.bytes);
        if found.metadata.get(PROOF) != Some(&proof) {
            return Ok(None);
        }
        if self.session.store.sha256(object)? != Some((claimed.clone(), found.bytes)) {
            return Ok(None);
        }
        documents::detail(self.desired.drain, format_args!("{object} exists already"));
        Ok(Some(Pack { object: object.to_owned(), sha256: claimed, bytes: found.bytes }))
    }

    /// Returns the keyed digest that proves that a holder of the key wrote the object with this content.
    fn proof(&self, object: &str, fingerprint: &[u8; 32], digest: &str, bytes: u64) -> String {
        let mut mac = keyed(&self.session.keys.proof);
        let claim = format!("{object}\n{}\n{digest}\n{bytes}\n", HEXLOWER.encode(fingerprint));
        mac.update(claim.as_bytes());
        HEXLOWER.encode(&mac.finalize().into_bytes())
    }
}

/// Fetches every object that `receipt` names, with credentials that cannot write.
pub(crate) fn read_back(
    store: &store::Reader,
    desired: &Desired<'_>,
    receipt: &Receipt,
) -> Result<(), Error> {
    let doing = documents::step(desired.drain, "read back");
    let (mut objects, mut bytes) = (0, 0);
    for pack in
        receipt.sources.iter().flat_map(|source| source.packs.iter().chain([&source.manifest]))
    {
        documents::check_interrupt()?;
        let tampered =
            |why: &str| Error::Tampered { object: pack.object.clone(), why: why.to_owned() };
        let found = store.sha256(&pack.object)?.ok_or_else(|| tampered("it is not there"))?;
        if found.1 != pack.bytes {
            let why = format!("it has {} bytes, not {}", found.1, pack.bytes);
            return Err(tampered(&why));
        }
        if found.0 != pack.sha256 {
            return Err(tampered("its SHA-256 differs"));
        }
        objects += 1;
        bytes += found.1;
    }
    doing.done(format_args!("{objects} objects, {bytes} bytes"));
    Ok(())
}

/// Signs the receipt, puts it into the store, and returns its key.
pub(crate) fn sign(
    session: &WriteSession<'_>,
    desired: &Desired<'_>,
    observation: &Observation,
    receipt: &Receipt,
) -> Result<String, Error> {
    let envelope = receipt.sign(&session.keys.phase)?;
    let object = observation.receipt_object(desired, &receipt.run);
    let text = serde_json::to_vec(&envelope).unwrap_or_default();
    if !session.store.create(&object, text.clone(), &Metadata::new())? {
        let there = session.store.get(&object, text.len() as u64)?;
        if there.as_ref() != Some(&text) {
            let why = "another receipt has this name".to_owned();
            return Err(Error::Tampered { object, why });
        }
    }
    Ok(object)
}
