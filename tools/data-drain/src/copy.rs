//! One source on its way into the store, and back.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hmac::Mac as _;
use keyring::{AgeRecipient, Pack, Receipt};

use crate::desired::Desired;
use crate::observe::Observation;
use crate::pack::{PACK_BYTES, Packer, Sealed, Whole, keyed, sha256};
use crate::store::Metadata;
use crate::world::World;
use crate::{Error, archive, store};

/// The metadata of an object.
const SHA256: &str = "sha256";
const PROOF: &str = "proof";
/// How often a pack is written again under another name when what lies there is damaged.
const NAMES_MAX: u32 = 8;
/// How often a long copy tells how far it is.
const PROGRESS: Duration = Duration::from_secs(30);

/// A source that tells from time to time how much of it was read.
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

/// One source on its way into the store.
pub(crate) struct Copy<'a> {
    pub(crate) world: &'a World<'a>,
    pub(crate) wanted: &'a Desired<'a>,
    pub(crate) folder: String,
}

impl Copy<'_> {
    /// Copies `source` into the store, and returns the counts for people.
    pub(crate) fn copy(
        &self,
        name: &str,
        source: impl Read,
        copied: &mut keyring::Copied,
    ) -> Result<String, Error> {
        let mut packs = Vec::new();
        let whole = self.pack(name, source, &self.wanted.recipients, |it| {
            packs.push(self.put(&format!("{:05}", it.number), it)?);
            Ok(())
        })?;
        copied.manifest = self.put("manifest", whole.manifest)?;
        (copied.bytes, copied.entries) = (whole.bytes, whole.entries);
        (copied.fingerprint, copied.packs) = (whole.fingerprint, packs);
        let (bytes, packs) = (copied.bytes, copied.packs.len());
        Ok(format!("{} entries, {bytes} bytes, {packs} packs", copied.entries))
    }

    /// The fingerprint of what the source holds now.
    pub(crate) fn fingerprint(&self, name: &str, source: impl Read) -> Result<String, Error> {
        let doing = documents::step(self.wanted.drain, "look again");
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
        let key = &self.world.keys.fingerprint;
        let mut packer = Packer::new(key, recipients, PACK_BYTES, finished)?;
        let mut source = Progress::new(self.wanted.drain, name, &mut source);
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

    /// Puts a pack where it belongs. One that lies there already, is ours and is whole will do; one
    /// that is damaged stays, and the pack gets another name.
    fn put(&self, name: &str, mut sealed: Sealed) -> Result<Pack, Error> {
        let fingerprint = HEXLOWER.encode(&sealed.fingerprint[..8]);
        for number in 0..NAMES_MAX {
            self.world.go_on()?;
            let again = if number == 0 { String::new() } else { format!("-{number}") };
            let object = format!("{}/{name}-{fingerprint}{again}.zst.age", self.folder);
            if let Some(pack) = self.put_at(&object, &mut sealed)? {
                return Ok(pack);
            }
            let text =
                format!("{object} is damaged or not ours: the pack is written under another name");
            documents::note(self.wanted.drain, text);
        }
        let object = format!("{}/{name}-{fingerprint}", self.folder);
        let why = format!("{NAMES_MAX} objects of that name are damaged");
        Err(Error::Tampered { object, why })
    }

    /// `None`: something else lies there.
    fn put_at(&self, object: &str, sealed: &mut Sealed) -> Result<Option<Pack>, Error> {
        let store = self.world.store;
        let bytes = sealed.file.len() as u64;
        if let Some(found) = store.head(object)? {
            return self.adopted(object, sealed, &found);
        }
        let digest = sha256(&sealed.file);
        let proof = self.proof(object, &sealed.fingerprint, &digest, bytes);
        let metadata = [(SHA256, &digest), (PROOF, &proof)];
        let metadata: Metadata =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        // A copy, because the name may turn out to be taken by something damaged.
        if store.create(object, sealed.file.clone(), &metadata)? {
            return Ok(Some(Pack { object: object.to_owned(), sha256: digest, bytes }));
        }
        // An answer got lost, or another run was faster.
        let found = store.head(object)?.ok_or_else(|| {
            let why = "the store says that it is there, and then that it is not".to_owned();
            Error::Tampered { object: object.to_owned(), why }
        })?;
        self.adopted(object, sealed, &found)
    }

    /// The object that lies there, if we have put it there with this content and it is whole. It is
    /// fetched: metadata outlives damage.
    fn adopted(
        &self,
        object: &str,
        sealed: &Sealed,
        found: &store::Found,
    ) -> Result<Option<Pack>, Error> {
        let claimed = found.metadata.get(SHA256).cloned().unwrap_or_default();
        let proof = self.proof(object, &sealed.fingerprint, &claimed, found.bytes);
        if found.metadata.get(PROOF) != Some(&proof) {
            return Ok(None);
        }
        if self.world.store.sha256(object)? != Some((claimed.clone(), found.bytes)) {
            return Ok(None);
        }
        documents::detail(self.wanted.drain, format_args!("{object} is there"));
        Ok(Some(Pack { object: object.to_owned(), sha256: claimed, bytes: found.bytes }))
    }

    /// What only the holder of our key can say of an object: that we have put it there, with this
    /// in it.
    fn proof(&self, object: &str, fingerprint: &[u8; 32], digest: &str, bytes: u64) -> String {
        let mut mac = keyed(&self.world.keys.proof);
        let said = format!("{object}\n{}\n{digest}\n{bytes}\n", HEXLOWER.encode(fingerprint));
        mac.update(said.as_bytes());
        HEXLOWER.encode(&mac.finalize().into_bytes())
    }
}

/// Fetches everything that `receipt` names, with the credentials of somebody who cannot write.
pub(crate) fn read_back(
    store: &store::Reader,
    wanted: &Desired<'_>,
    receipt: &Receipt,
) -> Result<(), Error> {
    let doing = documents::step(wanted.drain, "read back");
    let (mut objects, mut bytes) = (0, 0);
    for pack in receipt.sources.iter().flat_map(|it| it.packs.iter().chain([&it.manifest])) {
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
    world: &World<'_>,
    wanted: &Desired<'_>,
    observation: &Observation,
    receipt: &Receipt,
) -> Result<String, Error> {
    let envelope = receipt.sign(&world.keys.phase)?;
    let object = observation.receipt_object(wanted, &receipt.run);
    let text = serde_json::to_vec(&envelope).unwrap_or_default();
    if !world.store.create(&object, text.clone(), &Metadata::new())? {
        let there = world.store.get(&object, text.len() as u64)?;
        if there.as_ref() != Some(&text) {
            let why = "another receipt lies there".to_owned();
            return Err(Error::Tampered { object, why });
        }
    }
    Ok(object)
}
