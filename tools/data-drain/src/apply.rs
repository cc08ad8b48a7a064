//! The way there: stop, copy, look again, read back, sign.
//!
//! **Invariant:** what is signed was read from its source twice, and from the store whole.
//! **Invariant:** if anything goes wrong, what was stopped is started again.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use hmac::Mac as _;
use keyring::{AgeRecipient, Pack, Receipt};
use serde_json::json;

use crate::archive;
use crate::observe::{Live, NODE, REPLICAS, Seen, Wanted, claims, observe};
use crate::pack::{PACK_BYTES, Packer, Sealed, Whole, keyed, sha256};
use crate::plan::{Step, undo};
use crate::store::Metadata;
use crate::volume::Volume;
use crate::{Deadline, Error, cluster, forge, store};

/// What keeps Flux from starting again what was stopped, by its own rules.
const RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";
/// The metadata of an object.
const SHA256: &str = "sha256";
const PROOF: &str = "proof";

/// Everything that can be asked, and everything that can be changed.
pub(crate) struct World<'a> {
    pub(crate) reader: &'a cluster::Reader,
    pub(crate) writer: &'a cluster::Writer,
    pub(crate) back: &'a store::Reader,
    pub(crate) store: &'a store::Writer,
    /// The image that reads volumes.
    pub(crate) image: &'a str,
    pub(crate) deadline: &'a Deadline,
}

/// Brings a receipt about for what is there.
pub(crate) fn apply(world: &World<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    let done = drain(world, wanted, seen);
    if done.is_err() {
        start_again(world, wanted);
    }
    done
}

fn start_again(world: &World<'_>, wanted: &Wanted<'_>) {
    let seen = claims(world.reader, wanted.sources);
    if let Err(error) = seen.and_then(|seen| start(world.writer, wanted.drain, &seen)) {
        phase::note(wanted.drain, format_args!("what was stopped stays so: {error}"));
    }
}

/// Proves again what a receipt says; what was stopped is started when that fails.
pub(crate) fn proven(world: &World<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    let Some((receipt, _)) = &seen.receipt else { return Ok(()) };
    let proven = read_back(world.back, wanted, receipt);
    if proven.is_err() {
        start_again(world, wanted);
    }
    proven
}

fn drain(world: &World<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    stop(world, wanted, seen)?;
    let seen = at_rest(world, wanted)?;
    let draft = seen.draft(wanted);
    let mut receipt = draft.ok_or_else(|| in_use(&seen, world.deadline))?;
    let prefix = wanted.prefix(&receipt.run);
    for (index, live) in seen.sources.iter().enumerate() {
        let copy = Copy { world, wanted, folder: format!("{prefix}/{index}") };
        let copied = &mut receipt.sources[index];
        match live {
            Live::Claim { claim, workload, .. } => {
                let node = workload.as_ref().and_then(|it| it.node.as_deref());
                let both = (world.reader, world.writer);
                let doing = phase::begin(wanted.drain, "mount");
                let drain = wanted.drain;
                let volume = Volume::mount(drain, claim, world.image, node, both, world.deadline)?;
                doing.done(claim);
                let name = claim.to_string();
                copy.copy(&name, volume.read()?, copied)?;
                if copy.fingerprint(&name, volume.read()?)? != copied.fingerprint {
                    return Err(Error::Changed { source_name: name });
                }
            }
            Live::Forge { repository, .. } => {
                let (url, token) = &wanted.forges[repository.as_str()];
                let scratch = Scratch::new()?;
                let archive = forge::archive(url, token, &scratch.0)?;
                let cannot = |source| Error::File { what: "read", path: archive.clone(), source };
                let file = fs::File::open(&archive).map_err(cannot)?;
                copy.copy(&format!("forge {repository}"), file, copied)?;
            }
        }
    }
    let after = observe(world.reader, world.back, wanted)?;
    if after.draft(wanted).is_none_or(|it| it.run != receipt.run) {
        return Err(Error::Changed { source_name: "what was stopped, or a repository".to_owned() });
    }
    read_back(world.back, wanted, &receipt)?;
    sign(world, wanted, &receipt)
}

/// Stops what writes. Flux is told to leave it alone in the same breath.
fn stop(world: &World<'_>, wanted: &Wanted<'_>, seen: &Seen) -> Result<(), Error> {
    let users = seen.users();
    for workload in seen.workloads() {
        let at = &workload.at;
        if at.replicas == 0 && at.stopped.is_some() {
            continue;
        }
        phase::uninterrupted()?;
        let step = Step::Stop { workload: at.name.clone(), replicas: at.replicas };
        let doing = phase::begin(wanted.drain, "stop");
        let replicas = at.stopped.unwrap_or(0).max(at.replicas).to_string();
        let node = workload.node.clone().or_else(|| users.first().map(|it| it.1.clone()));
        let annotations = json!({RECONCILE: "disabled", REPLICAS: replicas, NODE: node});
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": 0}});
        world.writer.merge(&workload.path, &patch)?;
        doing.done(step);
    }
    Ok(())
}

/// Starts what a drain has stopped, and gives it back to Flux.
pub(crate) fn start(writer: &cluster::Writer, name: &str, seen: &Seen) -> Result<(), Error> {
    for step in undo(&seen.world()) {
        let Step::Start { workload, replicas } = &step else { continue };
        let live = seen.workloads().into_iter().find(|it| it.at.name == *workload);
        let Some(live) = live else { continue };
        let doing = phase::begin(name, "start");
        let annotations = json!({RECONCILE: null, REPLICAS: null, NODE: null});
        let spec = json!({"replicas": replicas});
        writer
            .merge(&live.path, &json!({"metadata": {"annotations": annotations}, "spec": spec}))?;
        doing.done(&step);
    }
    Ok(())
}

/// Waits until nothing uses what is to be copied.
fn at_rest(world: &World<'_>, wanted: &Wanted<'_>) -> Result<Seen, Error> {
    world.deadline.until(|| {
        let seen = claims(world.reader, wanted.sources)?;
        Ok(seen.at_rest().is_none().then(|| in_use(&seen, world.deadline)))
    })?;
    observe(world.reader, world.back, wanted)
}

fn in_use(seen: &Seen, deadline: &Deadline) -> Error {
    let pods = seen.users().into_iter().map(|(pod, _)| pod);
    let running = seen.workloads().into_iter().filter(|it| it.at.replicas > 0);
    let running = running.map(|it| it.at.name.clone());
    Error::InUse { seconds: deadline.seconds, who: pods.chain(running).collect() }
}

/// One source on its way into the store.
struct Copy<'a> {
    world: &'a World<'a>,
    wanted: &'a Wanted<'a>,
    folder: String,
}

impl Copy<'_> {
    fn copy(
        &self,
        name: &str,
        source: impl std::io::Read,
        copied: &mut keyring::Copied,
    ) -> Result<(), Error> {
        let doing = phase::begin(self.wanted.drain, "copy");
        let mut packs = Vec::new();
        let whole = self.pack(name, source, &self.wanted.recipients, |it| {
            packs.push(self.put(&format!("{:05}", it.number), it)?);
            Ok(())
        })?;
        copied.manifest = self.put("manifest", whole.manifest)?;
        (copied.bytes, copied.entries) = (whole.bytes, whole.entries);
        (copied.fingerprint, copied.packs) = (whole.fingerprint, packs);
        let (bytes, packs) = (copied.bytes, copied.packs.len());
        doing
            .done(format_args!("{name}: {} entries, {bytes} bytes, {packs} packs", copied.entries));
        Ok(())
    }

    /// The fingerprint of what the source holds now.
    fn fingerprint(&self, name: &str, source: impl std::io::Read) -> Result<String, Error> {
        let doing = phase::begin(self.wanted.drain, "look again");
        let whole = self.pack(name, source, &[], |_| Ok(()))?;
        doing.done(name);
        Ok(whole.fingerprint)
    }

    fn pack(
        &self,
        name: &str,
        mut source: impl std::io::Read,
        recipients: &[AgeRecipient],
        finished: impl FnMut(Sealed) -> Result<(), Error>,
    ) -> Result<Whole, Error> {
        let key = &self.wanted.keys.fingerprint;
        let mut packer = Packer::new(key, recipients, PACK_BYTES, finished)?;
        archive::copy(&mut source, &mut packer).map_err(|error| match error {
            Error::Read { source, .. } if phase::interrupted() => {
                phase::detail(name, source);
                Error::Stream(phase::Error::Interrupted)
            }
            Error::Read { source, .. } => Error::Read { source_name: name.to_owned(), source },
            other => other,
        })?;
        packer.finish()
    }

    /// Puts a pack where it belongs; one that lies there already, and is ours, will do.
    fn put(&self, name: &str, sealed: Sealed) -> Result<Pack, Error> {
        phase::uninterrupted()?;
        let (store, wanted) = (self.world.store, self.wanted);
        let fingerprint = HEXLOWER.encode(&sealed.fingerprint[..8]);
        let object = format!("{}/{name}-{fingerprint}.zst.age", self.folder);
        let bytes = sealed.file.len() as u64;
        let digest = sha256(&sealed.file);
        let adopted = || {
            let Some(found) = store.head(&object)? else { return Ok(None) };
            let claimed = found.metadata.get(SHA256).cloned().unwrap_or_default();
            let proof = proof(wanted, &object, &sealed.fingerprint, &claimed, found.bytes);
            if found.metadata.get(PROOF) == Some(&proof) {
                return Ok(Some(Pack {
                    object: object.clone(),
                    sha256: claimed,
                    bytes: found.bytes,
                }));
            }
            let why = "somebody else has put it there".to_owned();
            Err(Error::Tampered { object: object.clone(), why })
        };
        if let Some(pack) = adopted()? {
            phase::detail(wanted.drain, format_args!("{object} is there"));
            return Ok(pack);
        }
        let proof = proof(wanted, &object, &sealed.fingerprint, &digest, bytes);
        let metadata = [(SHA256, &digest), (PROOF, &proof)];
        let metadata: Metadata =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        if store.create(&object, sealed.file, &metadata)? {
            return Ok(Pack { object, sha256: digest, bytes });
        }
        let gone =
            || Error::Tampered { object: object.clone(), why: "it comes and goes".to_owned() };
        adopted()?.ok_or_else(gone)
    }
}

/// What nobody without our key can say of an object: that we have put it there, with this in it.
fn proof(
    wanted: &Wanted<'_>,
    object: &str,
    fingerprint: &[u8; 32],
    digest: &str,
    bytes: u64,
) -> String {
    let mut mac = keyed(&wanted.keys.proof);
    let said = format!("{object}\n{}\n{digest}\n{bytes}\n", HEXLOWER.encode(fingerprint));
    mac.update(said.as_bytes());
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// Fetches everything that `receipt` names, with the credentials of somebody who cannot write.
pub(crate) fn read_back(
    store: &store::Reader,
    wanted: &Wanted<'_>,
    receipt: &Receipt,
) -> Result<(), Error> {
    let doing = phase::begin(wanted.drain, "read back");
    let (mut objects, mut bytes) = (0, 0);
    for pack in receipt.sources.iter().flat_map(|it| it.packs.iter().chain([&it.manifest])) {
        phase::uninterrupted()?;
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

fn sign(world: &World<'_>, wanted: &Wanted<'_>, receipt: &Receipt) -> Result<(), Error> {
    phase::uninterrupted()?;
    let doing = phase::begin(wanted.drain, "sign");
    let envelope = receipt.sign(&wanted.keys.phase)?;
    let object = wanted.receipt(&receipt.run);
    let text = serde_json::to_vec(&envelope).unwrap_or_default();
    if !world.store.create(&object, text.clone(), &Metadata::new())? {
        let there = world.store.get(&object, text.len() as u64)?;
        if there.as_ref() != Some(&text) {
            let why = "another receipt lies there".to_owned();
            return Err(Error::Tampered { object, why });
        }
    }
    doing.done(object);
    Ok(())
}

/// A folder that goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("data-drain-{}", std::process::id()));
        let cannot = |source| Error::File { what: "write", path: path.clone(), source };
        let _ = fs::remove_dir_all(&path); // of a process that had our number
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(cannot)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
