//! Packs: parts of an archive, each of which can be opened alone.
//!
//! ```text
//! archive ─ cut at members ─► pack ─ zstd frames of 2 MiB ─► age file ─► one object
//! ```
//!
//! The cuts depend only on the archive, so that equal archives have equal packs. The fingerprint is a keyed
//! digest of a pack's plaintext. It shows whether two archives are equal and reveals nothing about their
//! content. The age file of the same pack differs every time.
//!
//! **Invariant:** the decrypted packs in order are the archive.

use std::io::{self, Write as _};

use age::stream::StreamWriter;
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrets::AgeRecipient;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::Error;
use crate::archive::{Member, Sink};

/// Plaintext bytes of one pack.
pub(crate) const PACK_BYTES: u64 = 64 << 20;
/// Plaintext bytes of one zstd frame, which is the unit of compression.
const FRAME_BYTES: usize = 2 << 20;
const LEVEL: i32 = 3;

/// Key of the fingerprints. Without it, a guessed content cannot be compared with a fingerprint.
pub(crate) type Key = zeroize::Zeroizing<[u8; 32]>;

/// A finished pack, which is one object in the store.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Index of the pack in its archive, from 0.
    pub(crate) number: usize,
    /// Keyed digest of the plaintext.
    pub(crate) fingerprint: [u8; 32],
    /// Age file; empty if only the fingerprint was computed.
    pub(crate) file: Vec<u8>,
}

/// Summary of a whole archive.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Keyed digest of the fingerprints of all packs, in hexadecimal digits.
    pub(crate) fingerprint: String,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Sealed list of the entries, one line of JSON for each.
    pub(crate) manifest: Sealed,
}

/// Cuts an archive into packs and passes each finished pack to `finished`.
pub(crate) struct Packer<'a, F> {
    key: &'a Key,
    /// Recipients of the packs; empty if only fingerprints are computed.
    recipients: &'a [AgeRecipient],
    pack_bytes: u64,
    finished: F,
    pack: Option<Pack>,
    number: usize,
    whole: Hmac<Sha256>,
    bytes: u64,
    entries: u64,
    manifest: Pack,
}

impl<'a, F: FnMut(Sealed) -> Result<(), Error>> Packer<'a, F> {
    pub(crate) fn new(
        key: &'a Key,
        recipients: &'a [AgeRecipient],
        pack_bytes: u64,
        finished: F,
    ) -> Result<Self, Error> {
        Ok(Self {
            key,
            recipients,
            pack_bytes,
            finished,
            pack: None,
            number: 0,
            whole: keyed(key),
            bytes: 0,
            entries: 0,
            manifest: Pack::new(key, recipients)?,
        })
    }

    /// Finishes the last pack and returns the summary. Call this after the end of the archive.
    pub(crate) fn finish(mut self) -> Result<Whole, Error> {
        self.cut()?;
        let fingerprint = HEXLOWER.encode(&self.whole.finalize().into_bytes());
        let manifest = self.manifest.finish(0)?;
        Ok(Whole { fingerprint, bytes: self.bytes, entries: self.entries, manifest })
    }

    fn cut(&mut self) -> Result<(), Error> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let sealed = pack.finish(self.number)?;
        self.number += 1;
        self.whole.update(&sealed.fingerprint);
        (self.finished)(sealed)
    }
}

impl<F: FnMut(Sealed) -> Result<(), Error>> Sink for Packer<'_, F> {
    type Error = Error;

    fn begin(&mut self, _: &Member, bytes: u64) -> Result<(), Error> {
        if self.pack.as_ref().is_some_and(|pack| pack.bytes + bytes > self.pack_bytes) {
            self.cut()?;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8], _: usize) -> Result<(), Error> {
        while !bytes.is_empty() {
            let pack = match &mut self.pack {
                Some(pack) => pack,
                none => none.insert(Pack::new(self.key, self.recipients)?),
            };
            let room = usize::try_from(self.pack_bytes - pack.bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            pack.write(now)?;
            self.bytes += now.len() as u64;
            if pack.bytes == self.pack_bytes {
                self.cut()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn end(&mut self, member: Member, sha256: Option<[u8; 32]>) -> Result<(), Error> {
        self.entries += 1;
        let mut line = json!({
            "type": member.kind_name(), "bytes": member.bytes, "pack": self.number,
        });
        match std::str::from_utf8(&member.name) {
            Ok(name) => line["name"] = name.into(),
            Err(_) => line["nameBase64"] = BASE64.encode(&member.name).into(),
        }
        if let Some(sha256) = &sha256 {
            line["sha256"] = HEXLOWER.encode(sha256).into();
        }
        self.manifest.write(format!("{line}\n").as_bytes())
    }
}

struct Pack {
    fingerprint: Hmac<Sha256>,
    bytes: u64,
    file: Option<PackEncryptor>,
}

impl Pack {
    fn new(key: &Key, recipients: &[AgeRecipient]) -> Result<Self, Error> {
        let file = if recipients.is_empty() { None } else { Some(PackEncryptor::new(recipients)?) };
        Ok(Self { fingerprint: keyed(key), bytes: 0, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.fingerprint.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.as_mut().map_or(Ok(()), |file| file.write(bytes)).map_err(Error::Seal)
    }

    fn finish(self, number: usize) -> Result<Sealed, Error> {
        let file = self.file.map(PackEncryptor::finish).transpose().map_err(Error::Seal)?;
        Ok(Sealed {
            number,
            fingerprint: self.fingerprint.finalize().into_bytes().into(),
            file: file.unwrap_or_default(),
        })
    }
}

/// Compresses data in frames and encrypts it with age.
struct PackEncryptor {
    frame: Vec<u8>,
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
    age: StreamWriter<Vec<u8>>,
}

impl PackEncryptor {
    fn new(recipients: &[AgeRecipient]) -> Result<Self, Error> {
        let parse = |recipient: &AgeRecipient| recipient.as_str().parse::<age::x25519::Recipient>();
        let recipients: Vec<_> = recipients
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Seal(io::Error::other(error)))?;
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients);
        let encryptor = encryptor.map_err(|error| Error::Seal(io::Error::other(error)))?;
        let mut compressor = Compressor::new(LEVEL).map_err(Error::Seal)?;
        let checksum = CParameter::ChecksumFlag(true);
        compressor.set_parameter(checksum).map_err(Error::Seal)?;
        Ok(Self {
            frame: Vec::with_capacity(FRAME_BYTES),
            compressor,
            compressed: Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME_BYTES)),
            age: encryptor.wrap_output(Vec::new()).map_err(Error::Seal)?,
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = FRAME_BYTES - self.frame.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.frame.extend_from_slice(now);
            if self.frame.len() == FRAME_BYTES {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.compressed.clear();
        self.compressor.compress_to_buffer(&self.frame, &mut self.compressed)?;
        self.frame.clear();
        self.age.write_all(&self.compressed)
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        if !self.frame.is_empty() {
            self.flush()?;
        }
        self.age.finish()
    }
}

pub(crate) fn keyed(key: &Key) -> Hmac<Sha256> {
    Hmac::new_from_slice(&**key)
        .unwrap_or_else(|_| unreachable!("HMAC accepts a key of any length"))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::archive;

    fn key_pair() -> (age::x25519::Identity, AgeRecipient) {
        let identity = age::x25519::Identity::generate();
        let recipient = AgeRecipient::try_from(identity.to_public().to_string());
        (identity, recipient.expect("a recipient"))
    }

    fn open(file: &[u8], identity: &age::x25519::Identity) -> Vec<u8> {
        let decryptor = age::Decryptor::new(file).expect("an age file");
        let reader = decryptor.decrypt(std::iter::once(identity as &dyn age::Identity));
        let mut bytes = Vec::new();
        let mut decoder = zstd::Decoder::new(reader.expect("a recipient")).expect("zstd");
        decoder.read_to_end(&mut bytes).expect("whole");
        bytes
    }

    /// Returns an archive of GNU tar with these files.
    fn archive(files: &[Vec<u8>]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        for (number, file) in files.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number:04}")), file).expect("written");
        }
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=posix", "--sort=name", "--mtime=@0", "."]);
        let output = tar.current_dir(&folder).output().expect("tar");
        output.stdout
    }

    fn packed(
        archive: &[u8],
        to: &[AgeRecipient],
        pack_bytes: u64,
    ) -> Result<(Vec<Sealed>, Whole), Error> {
        let key = Key::new([7; 32]);
        let mut packs = Vec::new();
        let mut packer = Packer::new(&key, to, pack_bytes, |pack| {
            packs.push(pack);
            Ok(())
        })?;
        archive::copy(&mut &archive[..], &mut packer)?;
        let whole = packer.finish()?;
        Ok((packs, whole))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_decrypted_packs_in_order_are_the_archive(
            sizes in prop::collection::vec(0usize..20_000, 0..8), pack in 1u64..40,
        ) {
            let files: Vec<_> = sizes.iter().map(|&size| vec![b'a'; size]).collect();
            let archive = archive(&files);
            let ((one, first), (two, second)) = (key_pair(), key_pair());
            let (packs, whole) = packed(&archive, &[first, second], pack * 512).expect("packed");
            for identity in [one, two] {
                let opened: Vec<_> = packs.iter().map(|pack| open(&pack.file, &identity)).collect();
                prop_assert!(opened.iter().all(|bytes| bytes.len() as u64 <= pack * 512));
                prop_assert_eq!(opened.concat(), archive.as_slice());
            }
            prop_assert_eq!(whole.bytes, archive.len() as u64);
            prop_assert_eq!(whole.entries, files.len() as u64 + 1);

            // Without recipients, the fingerprints are the same and no pack is encrypted.
            let (again, same) = packed(&archive, &[], pack * 512).expect("packed");
            prop_assert_eq!((&same.fingerprint, same.entries), (&whole.fingerprint, whole.entries));
            prop_assert_eq!(same.manifest.fingerprint, whole.manifest.fingerprint);
            prop_assert!(again.iter().all(|pack| pack.file.is_empty()));
        }
    }

    #[test]
    fn the_fingerprint_changes_with_the_content() {
        let one = packed(&archive(&[b"one".to_vec()]), &[], 4096).expect("packed").1;
        let two = packed(&archive(&[b"two".to_vec()]), &[], 4096).expect("packed").1;
        assert_ne!(one.fingerprint, two.fingerprint);
        assert_eq!(one.bytes, two.bytes);
    }
}
