//! One root, and everything that can be derived from it.
//!
//! ```text
//! root ── HKDF-SHA256, "<project>/<phase>/<generation>" ──► phase key
//! phase key ── HKDF-SHA256, "<scope>/<item>/<generation>" ──► bytes, keys
//! ```
//!
//! The salt is always `holistic/v1`. What is derived never changes for the same names: that is
//! what `tests/golden.rs` holds.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;

use bech32::{Bech32, Hrp};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use hkdf::Hkdf;
use p256::elliptic_curve::bigint::{NonZero, U384};
use phase::Declared;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Project, Reference, Secret};

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

/// The key of `phase`: from the environment (`ARTIFACT_ATTEST_KEY` for `artifact-attest`) when
/// that is set, or else from the root.
///
/// # Errors
///
/// Neither can be resolved, or what was found is not 32 bytes.
pub fn phase_key(project: &Declared<Project>, phase: &str) -> Result<PhaseKey, Error> {
    let env = variable(phase);
    if std::env::var_os(&env).is_none() {
        return Ok(root_key(project)?.phase(project, phase));
    }
    let reference = Reference::Env { env };
    let key = parse(&reference.resolve()?, &reference.to_string())?;
    Ok(PhaseKey { key, generations: generations(&project.spec, phase) })
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
        let key = hkdf(&*self.0, &format!("{}/{phase}/{generation}", project.name));
        PhaseKey { key, generations: generations(&project.spec, phase) }
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

fn identity(bytes: &[u8; 32]) -> age::x25519::Identity {
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
