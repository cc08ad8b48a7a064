//! Keys that derive from one root.
//!
//! ```text
//! root ── HKDF-SHA256, "<project>/<phase>/<generation>" ──► phase key
//! phase key ── HKDF-SHA256, "<scope>/<item>/<generation>" ──► bytes, keys
//! ```
//!
//! The salt is always `holistic/v1`. The same names give the same keys in every version:
//! `derivation.md` beside this crate lists known keys, and `tests/derivation.rs` derives each again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;

use bech32::{Bech32, Hrp};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use hkdf::Hkdf;
use p256::elliptic_curve::bigint::{NonZero, U384};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Secret};

const SALT: &[u8] = b"holistic/v1";

/// Longest output of HKDF-SHA256, in bytes (RFC 5869, section 2.3: 255 times the length of the hash).
const BYTES_MAX: usize = 255 * 32;

/// Order of P-256 minus 1 (SEC 2, section 2.4.2).
const P256_ORDER_LESS_ONE: U384 = U384::from_be_hex(
    "00000000000000000000000000000000ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550",
);

/// Secret from which every other derivable secret of a project derives.
pub struct RootKey(Zeroizing<[u8; 32]>);

/// Key from which one phase derives its secrets. The CI job of a phase holds this key and never the
/// root, so that it cannot derive the keys of other phases.
#[derive(Clone)]
pub struct PhaseKey {
    key: Zeroizing<[u8; 32]>,
    /// Generation of each item; an item without an entry is in generation 1.
    generations: BTreeMap<String, u32>,
}

impl RootKey {
    /// Parses 32 bytes as base64, as hex, or raw. `what` names the source of the secret in errors.
    ///
    /// # Errors
    ///
    /// [`Error::NotAKey`] when the secret is not 32 bytes in one of these notations.
    pub fn parse(secret: &Secret, what: &str) -> Result<Self, Error> {
        parse(secret, what).map(Self)
    }

    /// Derives the key of one generation of `phase` in the project called `project`. Every item of the
    /// key is in generation 1.
    #[must_use]
    pub fn derive(&self, project: &str, phase: &str, generation: u32) -> PhaseKey {
        let key = hkdf(&*self.0, &format!("{project}/{phase}/{generation}"));
        PhaseKey { key, generations: BTreeMap::new() }
    }

    /// Returns the root itself.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PhaseKey {
    /// Parses 32 bytes as base64, as hex, or raw. `what` names the source of the secret in errors.
    ///
    /// # Errors
    ///
    /// [`Error::NotAKey`] when the secret is not 32 bytes in one of these notations.
    pub fn parse(secret: &Secret, what: &str) -> Result<Self, Error> {
        parse(secret, what).map(|key| Self { key, generations: BTreeMap::new() })
    }

    /// Replaces the generations of all items; an item without an entry is in generation 1.
    #[must_use]
    pub fn with_generations(self, generations: BTreeMap<String, u32>) -> Self {
        Self { generations, ..self }
    }

    /// Returns the generation of `item` that is in use.
    #[must_use]
    pub fn generation(&self, item: &str) -> u32 {
        self.generations.get(item).copied().unwrap_or(1)
    }

    /// Returns the same key with `item` in another generation, for example to verify a signature that
    /// was made before a rotation.
    #[must_use]
    pub fn at(&self, item: &str, generation: u32) -> Self {
        let mut at = self.clone();
        at.generations.insert(item.to_owned(), generation);
        at
    }

    /// Returns the key itself, for example to store it as a CI secret.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.key
    }

    /// Derives `N` bytes for `item` of the document called `scope`. Two algorithms must use two items,
    /// because the shorter of two outputs for one item is the beginning of the longer one.
    #[must_use]
    pub fn bytes<const N: usize>(&self, scope: &str, item: &str) -> Zeroizing<[u8; N]> {
        hkdf(&*self.key, &format!("{scope}/{item}/{}", self.generation(item)))
    }

    /// Derives a key for ECDSA over P-256, whose signatures are deterministic (RFC 6979).
    #[must_use]
    pub fn p256(&self, scope: &str, item: &str) -> p256::ecdsa::SigningKey {
        scalar(&self.bytes(scope, item))
    }

    /// Derives a key for Ed25519 (RFC 8032).
    #[must_use]
    pub fn ed25519(&self, scope: &str, item: &str) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.bytes(scope, item))
    }

    /// Derives an age identity.
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

/// Reduces 384 bits modulo (n − 1) and adds 1, which gives a scalar from 1 to n − 1. The 128 bits beyond
/// the order make the bias negligible (FIPS 186-5, appendix A.2.1, requires 64).
fn scalar(bytes: &[u8; 48]) -> p256::ecdsa::SigningKey {
    let less_one = NonZero::new(P256_ORDER_LESS_ONE).into_option();
    let order = less_one.unwrap_or_else(|| unreachable!("the order minus 1 is not 0"));
    let scalar = U384::from_be_slice(bytes).rem(&order).wrapping_add(&U384::ONE);
    let scalar = Zeroizing::new(scalar.to_be_bytes());
    p256::ecdsa::SigningKey::from_slice(&scalar.as_ref()[16..])
        .unwrap_or_else(|_| unreachable!("the scalar is from 1 to n - 1"))
}

/// Encodes `bytes` as Bech32, because the crate `age` creates an identity from text only.
pub(crate) fn identity(bytes: &[u8; 32]) -> age::x25519::Identity {
    let written = bech32::encode::<Bech32>(Hrp::parse_unchecked("age-secret-key-"), bytes);
    let written = Zeroizing::new(written.unwrap_or_default().to_uppercase());
    age::x25519::Identity::from_str(&written)
        .unwrap_or_else(|_| unreachable!("any 32 bytes are an identity"))
}

/// Parses 32 bytes as base64, as hex, or raw.
fn parse(secret: &Secret, what: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
    let wrong = |why: &str| Error::NotAKey { what: what.to_owned(), why: why.to_owned() };
    let is_text = |bytes: &[u8]| {
        bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    };
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
        .map_err(|_| wrong("its length is that of base64 or hex, but it is neither"))?,
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
    fn hkdf_gives_the_outputs_of_rfc_5869() {
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
    fn p256_signatures_are_those_of_rfc_6979_a_2_5() {
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
    fn ed25519_signatures_are_those_of_rfc_8032() {
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
        let scalar = |digits: &str| {
            let bytes: [u8; 48] = hex(digits).try_into().expect("48 bytes");
            HEXLOWER.encode(&super::scalar(&bytes).to_bytes())
        };
        let wide = |digits: &str| format!("{digits:0>96}");
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
    fn a_key_of_32_bytes_parses_from_base64_hex_and_raw_bytes() {
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
    fn an_error_about_a_key_names_the_length_and_encoding_that_were_found() {
        let wrong: [(&[u8], &str); 6] = [
            (&[0xa5; 31], "it is 31 raw bytes"),
            (b"hunter2", "it is 7 characters, and neither base64 nor hex of 32 bytes"),
            // A text of 32 characters is not raw bytes: it has far fewer than 256 random bits.
            (&[b'a'; 32], "it is 32 characters, and neither base64 nor hex of 32 bytes"),
            (&[b'!'; 64], "its length is that of base64 or hex, but it is neither"),
            (&[b'a'; 44], "it is base64 of 33 bytes"),
            (b"", "it is 0 characters, and neither base64 nor hex of 32 bytes"),
        ];
        for (written, why) in wrong {
            let error = parse(&Secret::new(written.to_vec()), "the root").expect_err(why);
            assert_eq!(error.to_string(), format!("the root is not a key of 32 bytes: {why}"));
        }
    }

    #[test]
    fn debug_output_hides_keys() {
        let key = PhaseKey { key: Zeroizing::new([7; 32]), generations: BTreeMap::new() };
        assert_eq!(format!("{key:?}"), "PhaseKey(…)");
        assert_eq!(format!("{:?}", RootKey(Zeroizing::new([7; 32]))), "RootKey(…)");
    }

    proptest! {
        #[test]
        fn different_names_derive_different_keys(
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
        fn any_phase_key_derives_keys_that_sign_and_encrypt(key: [u8; 32]) {
            let key = PhaseKey { key: Zeroizing::new(key), generations: BTreeMap::new() };
            let signature: Signature = key.p256("a", "b").sign(b"message");
            prop_assert!(key.p256("a", "b").verifying_key().verify(b"message", &signature).is_ok());
            let recipient = key.age("a", "c").to_public().to_string();
            prop_assert!(crate::AgeRecipient::try_from(recipient).is_ok());
        }
    }
}
