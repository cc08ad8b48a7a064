//! One root, and everything that can be derived from it.
//!
//! ```text
//! root ── HKDF-SHA256, "<project>/<phase>/<generation>" ──► phase key
//! phase key ── HKDF-SHA256, "<scope>/<item>/<generation>" ──► bytes, keys
//! ```
//!
//! The salt is always `holistic/v1`. What is derived never changes for the same names: `derivation.md` beside
//! this crate is the promise, and `tests/derivation.rs` keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;

use bech32::{Bech32, Hrp};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use documents::Declared;
use hkdf::Hkdf;
use p256::elliptic_curve::bigint::{NonZero, U384};
use p256::pkcs8::DecodePublicKey as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Project, READER, Reference, Secret, published};

const SALT: &[u8] = b"holistic/v1";

/// The longest output of HKDF-SHA256, in bytes.
const BYTES_MAX: usize = 255 * 32;

/// The order of P-256, less one.
const P256_ORDER_LESS_ONE: U384 = U384::from_be_hex(
    "00000000000000000000000000000000ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550",
);

/// The one secret that nothing can derive.
pub struct RootKey(Zeroizing<[u8; 32]>);

/// What one phase derives its secrets from. CI for a phase is given this, never the root.
#[derive(Clone)]
pub struct PhaseKey {
    key: Zeroizing<[u8; 32]>,
    /// By item.
    generations: BTreeMap<String, u32>,
}

/// The root of `project`.
///
/// # Errors
///
/// It cannot be resolved, or is not 32 bytes.
pub fn root_key(project: &Declared<Project>) -> Result<RootKey, Error> {
    let reference = &project.spec.root;
    parse(&reference.resolve()?, &reference.to_string()).map(RootKey)
}

/// The key of `phase` from the environment; `None` when its variable is not set.
///
/// # Errors
///
/// It is empty, is not 32 bytes, or derives from a published root.
pub(crate) fn given_phase_key(
    project: &Declared<Project>,
    phase: &str,
) -> Result<Option<PhaseKey>, Error> {
    let reference = Reference::Env { env: variable(phase) };
    let given = match reference.resolve() {
        Err(Error::Unset(_)) => return Ok(None),
        given => given?, // empty is what CI makes of a secret that it does not have
    };
    let key = parse(&given, &reference.to_string())?;
    published::refuse_phase_key(project, phase, &key)?;
    Ok(Some(PhaseKey { key, generations: generations(&project.spec, phase) }))
}

/// The key of `phase`: from the environment (`ARTIFACT_ATTEST_KEY` for `artifact-attest`) when
/// that is set, or else from the root.
///
/// # Errors
///
/// Neither can be resolved, or what was found is not 32 bytes.
pub fn phase_key(project: &Declared<Project>, phase: &str) -> Result<PhaseKey, Error> {
    match given_phase_key(project, phase)? {
        Some(key) => Ok(key),
        None => Ok(root_key(project)?.phase(project, phase)),
    }
}

/// The key of `phase`, or `None` for a caller that has no more than the key of [`READER`]: the root
/// and the phase's key cannot be resolved, and `READER_KEY` is set.
///
/// # Errors
///
/// The errors of [`phase_key`] when `READER_KEY` is not set, and of a wrong `READER_KEY`.
pub fn phase_key_unless_reader(
    project: &Declared<Project>,
    phase: &str,
) -> Result<Option<PhaseKey>, Error> {
    if let Some(key) = given_phase_key(project, phase)? {
        return Ok(Some(key));
    }
    match root_key(project) {
        Ok(root) => Ok(Some(root.phase(project, phase))),
        Err(published @ Error::Published(_)) => Err(published),
        Err(error) => match given_phase_key(project, READER)? {
            Some(_) => Ok(None),
            None => Err(error),
        },
    }
}

/// Public keys of which one must have signed an artifact of `project`: those that its document names,
/// or else the one that derives from the key of the phase `artifact-attest` for `item`.
///
/// # Errors
///
/// The document names no key, and neither `ARTIFACT_ATTEST_KEY` nor the root can be read.
pub fn artifact_keys(
    project: &Declared<Project>,
    item: &str,
) -> Result<Vec<p256::ecdsa::VerifyingKey>, Error> {
    let named = &project.spec.verification_keys.artifacts;
    if named.is_empty() {
        let key = phase_key(project, "artifact-attest")?;
        return Ok(vec![*key.p256(project.name.as_str(), item).verifying_key()]);
    }
    let parse = |text: &String| {
        let key = parse_artifact_key(text);
        key.ok_or(Error::VerificationKey { why: "not a P-256 public key in PEM (RFC 5480)" })
    };
    named.iter().map(parse).collect()
}

/// A P-256 public key from a PEM block, or from its Base64 body on one line.
pub(crate) fn parse_artifact_key(text: &str) -> Option<p256::ecdsa::VerifyingKey> {
    let der = crate::receipt::spki(text)?;
    p256::ecdsa::VerifyingKey::from_public_key_der(&der).ok()
}

/// The variable of the environment that holds the key of `phase`.
#[must_use]
pub fn variable(phase: &str) -> String {
    phase.to_ascii_uppercase().replace('-', "_") + "_KEY"
}

impl RootKey {
    /// The key of `phase` in `project`.
    #[must_use]
    pub fn phase(&self, project: &Declared<Project>, phase: &str) -> PhaseKey {
        let generation = project.spec.generations.get(phase).copied().unwrap_or(1);
        let generations = generations(&project.spec, phase);
        PhaseKey { generations, ..self.derive(project.name.as_str(), phase, generation) }
    }

    /// The key of one generation of `phase` in the project called `name`; every item of it is in
    /// generation 1.
    pub(crate) fn derive(&self, name: &str, phase: &str, generation: u32) -> PhaseKey {
        let key = hkdf(&*self.0, &format!("{name}/{phase}/{generation}"));
        PhaseKey { key, generations: BTreeMap::new() }
    }

    /// Reads 32 bytes as base64, as hex, or as they are.
    pub(crate) fn parse(secret: &Secret) -> Result<Self, Error> {
        parse(secret, "the root").map(Self)
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

fn generations(project: &Project, phase: &str) -> BTreeMap<String, u32> {
    let of_phase = |(item, generation): (&String, &u32)| {
        let item = item.strip_prefix(phase)?.strip_prefix('/')?;
        Some((item.to_owned(), *generation))
    };
    project.generations.iter().filter_map(of_phase).collect()
}

impl PhaseKey {
    /// Which generation of `item` is in use.
    #[must_use]
    pub fn generation(&self, item: &str) -> u32 {
        self.generations.get(item).copied().unwrap_or(1)
    }

    /// The same key, `item` in another generation: for what was in use before.
    #[must_use]
    pub fn at(&self, item: &str, generation: u32) -> Self {
        let mut at = self.clone();
        at.generations.insert(item.to_owned(), generation);
        at
    }

    /// The key itself, to be handed on as a secret.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }

    /// `N` bytes for `item` of the document called `scope`. What two algorithms use has two items:
    /// fewer bytes of one item are the beginning of more.
    #[must_use]
    pub fn bytes<const N: usize>(&self, scope: &str, item: &str) -> Zeroizing<[u8; N]> {
        hkdf(&*self.key, &format!("{scope}/{item}/{}", self.generation(item)))
    }

    /// A key for ECDSA over P-256; its signatures are deterministic (RFC 6979).
    #[must_use]
    pub fn p256(&self, scope: &str, item: &str) -> p256::ecdsa::SigningKey {
        scalar(&self.bytes(scope, item))
    }

    /// A key for Ed25519.
    #[must_use]
    pub fn ed25519(&self, scope: &str, item: &str) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.bytes(scope, item))
    }

    /// An age identity.
    #[must_use]
    pub fn age(&self, scope: &str, item: &str) -> age::x25519::Identity {
        identity(&self.bytes(scope, item))
    }
}

fn hkdf<const N: usize>(key: &[u8], info: &str) -> Zeroizing<[u8; N]> {
    const { assert!(N <= BYTES_MAX) };
    let mut bytes = Zeroizing::new([0; N]);
    let expanded = Hkdf::<Sha256>::new(Some(SALT), key).expand(info.as_bytes(), &mut *bytes);
    expanded.map_or_else(|_| unreachable!("N is within the limit"), |()| bytes)
}

/// 384 bits modulo (n − 1), plus 1: from 1 to n − 1, and so even that nobody can tell.
fn scalar(bytes: &[u8; 48]) -> p256::ecdsa::SigningKey {
    let less_one = NonZero::new(P256_ORDER_LESS_ONE).into_option();
    let order = less_one.unwrap_or_else(|| unreachable!("it is a constant"));
    let scalar = U384::from_be_slice(bytes).rem(&order).wrapping_add(&U384::ONE);
    let scalar = Zeroizing::new(scalar.to_be_bytes());
    p256::ecdsa::SigningKey::from_slice(&scalar.as_ref()[16..])
        .unwrap_or_else(|_| unreachable!("it is from 1 to n - 1"))
}

pub(crate) fn identity(bytes: &[u8; 32]) -> age::x25519::Identity {
    let written = bech32::encode::<Bech32>(Hrp::parse_unchecked("age-secret-key-"), bytes);
    let written = Zeroizing::new(written.unwrap_or_default().to_uppercase());
    age::x25519::Identity::from_str(&written)
        .unwrap_or_else(|_| unreachable!("any 32 bytes are an identity"))
}

/// 32 bytes as base64, as hex, or as they are.
fn parse(secret: &Secret, what: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
    let wrong = |why: &str| Error::NotAKey { what: what.to_owned(), why: why.to_owned() };
    let is_text = |it: &[u8]| it.iter().all(|it| it.is_ascii_graphic() || it.is_ascii_whitespace());
    let exact = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map(Zeroizing::new).ok();
    if !is_text(secret.expose()) {
        let length = secret.expose().len();
        let why = format!("it is {length} raw bytes");
        return exact(secret.expose()).ok_or_else(|| wrong(&why));
    }
    let text = secret.text()?.trim();
    let decoded = Zeroizing::new(
        match text.len() {
            64 => HEXLOWER_PERMISSIVE.decode(text.as_bytes()),
            44 => BASE64.decode(text.as_bytes()),
            43 => BASE64_NOPAD.decode(text.as_bytes()),
            length => {
                let why =
                    format!("it is {length} characters, and neither base64 nor hex of 32 bytes");
                return Err(wrong(&why));
            }
        }
        .map_err(|_| wrong("it has the length of base64 or hex, and is not"))?,
    );
    exact(&decoded).ok_or_else(|| wrong(&format!("it is base64 of {} bytes", decoded.len())))
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(…)")
    }
}

impl fmt::Debug for PhaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PhaseKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use ed25519_dalek::Signer as _;
    use p256::ecdsa::Signature;
    use p256::ecdsa::signature::Verifier as _;
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.replace([' ', '\n'], "").as_bytes()).expect("hex")
    }

    #[test]
    fn hkdf_is_that_of_rfc_5869() {
        let long = |from: u8| (from..=from + 79).collect::<Vec<u8>>();
        let vectors = [
            (
                vec![0x0b; 22],
                hex("000102030405060708090a0b0c"),
                hex("f0f1f2f3f4f5f6f7f8f9"),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                long(0x00),
                long(0x60),
                long(0xb0),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6
                 5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![0x0b; 22],
                Vec::new(),
                Vec::new(),
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (key, salt, info, expected) in vectors {
            let expected = hex(expected);
            let mut bytes = vec![0; expected.len()];
            let expanded = Hkdf::<Sha256>::new(Some(&salt), &key).expand(&info, &mut bytes);
            assert!(expanded.is_ok());
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn p256_signs_as_rfc_6979_a_2_5() {
        let key = hex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721");
        let key = p256::ecdsa::SigningKey::from_slice(&key).expect("a key");
        let vectors = [
            (
                "sample",
                "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716
                 f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
            ),
            (
                "test",
                "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367
                 019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
            ),
        ];
        for (message, expected) in vectors {
            let signature: Signature = key.sign(message.as_bytes());
            assert_eq!(signature.to_bytes().to_vec(), hex(expected), "{message}");
        }
    }

    #[test]
    fn ed25519_signs_as_rfc_8032() {
        let vectors = [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155
                 5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
                 085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac
                 18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ];
        for (seed, message, expected) in vectors {
            let seed: [u8; 32] = hex(seed).try_into().expect("32 bytes");
            let key = ed25519_dalek::SigningKey::from_bytes(&seed);
            assert_eq!(key.sign(&hex(message)).to_bytes().to_vec(), hex(expected));
        }
    }

    #[test]
    fn a_scalar_is_never_zero_and_never_the_order() {
        let order_less_one = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550";
        let scalar = |of: &str| {
            let bytes: [u8; 48] = hex(of).try_into().expect("48 bytes");
            HEXLOWER.encode(&super::scalar(&bytes).to_bytes())
        };
        let wide = |of: &str| format!("{of:0>96}");
        let last = order_less_one.replace("632550", "63254f");
        assert_eq!(scalar(&wide("0")), format!("{:0>64}", "1"));
        assert_eq!(scalar(&wide(&last)), order_less_one);
        assert_eq!(scalar(&wide(order_less_one)), format!("{:0>64}", "1"));
        assert_eq!(
            scalar(&"f".repeat(96)),
            "431905529c0166ce652e96b7ccca0a9a679b73e29ad16947f01cf012fc632550"
        );
    }

    #[test]
    fn a_key_is_32_bytes_as_base64_as_hex_or_as_they_are() {
        let key = [0xa5; 32];
        let right: [Vec<u8>; 5] = [
            key.to_vec(),
            BASE64.encode(&key).into_bytes(),
            BASE64_NOPAD.encode(&key).into_bytes(),
            HEXLOWER.encode(&key).into_bytes(),
            (HEXLOWER.encode(&key).to_uppercase() + "\n").into_bytes(),
        ];
        for written in right {
            assert_eq!(*parse(&Secret::new(written), "the root").expect("right"), key);
        }
    }

    #[test]
    fn anything_else_is_no_key_and_the_error_says_what_it_is() {
        let wrong: [(&[u8], &str); 6] = [
            (&[0xa5; 31], "it is 31 raw bytes"),
            (b"hunter2", "it is 7 characters, and neither base64 nor hex of 32 bytes"),
            // 32 characters look like 32 bytes, and are far fewer.
            (&[b'a'; 32], "it is 32 characters, and neither base64 nor hex of 32 bytes"),
            (&[b'!'; 64], "it has the length of base64 or hex, and is not"),
            (&[b'a'; 44], "it is base64 of 33 bytes"),
            (b"", "it is 0 characters, and neither base64 nor hex of 32 bytes"),
        ];
        for (written, why) in wrong {
            let error = parse(&Secret::new(written.to_vec()), "the root").expect_err(why);
            assert_eq!(error.to_string(), format!("the root is not a key of 32 bytes: {why}"));
        }
    }

    #[test]
    fn a_phase_key_is_shown_to_nobody() {
        let key = PhaseKey { key: Zeroizing::new([7; 32]), generations: BTreeMap::new() };
        assert_eq!(format!("{key:?}"), "PhaseKey(…)");
        assert_eq!(variable("artifact-attest"), "ARTIFACT_ATTEST_KEY");
    }

    proptest! {
        #[test]
        fn two_names_never_give_one_key(
            key: [u8; 32],
            one in ("[a-z-]{1,9}", "[a-z/-]{1,9}", 1..9u32),
            other in ("[a-z-]{1,9}", "[a-z/-]{1,9}", 1..9u32),
        ) {
            let derive = |(scope, item, generation): &(String, String, u32)| {
                let key = PhaseKey { key: Zeroizing::new(key), generations: BTreeMap::new() };
                *key.at(item, *generation).bytes::<32>(scope, item)
            };
            prop_assert_eq!(derive(&one) == derive(&other), one == other);
        }

        #[test]
        fn any_bytes_give_keys_that_work(key: [u8; 32]) {
            let key = PhaseKey { key: Zeroizing::new(key), generations: BTreeMap::new() };
            let signature: Signature = key.p256("a", "b").sign(b"message");
            prop_assert!(key.p256("a", "b").verifying_key().verify(b"message", &signature).is_ok());
            let recipient = key.age("a", "c").to_public().to_string();
            prop_assert!(crate::AgeRecipient::try_from(recipient).is_ok());
        }
    }
}
