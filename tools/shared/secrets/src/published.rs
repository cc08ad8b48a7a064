//! Published secrets: the roots, identities and tokens in this repository and in its template.
//!
//! The lab uses them, so that it runs from a clone. Anybody can read them, so they protect nothing.
//! [`crate::Reference::guard`] makes a reference to one of them fail.

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::REPLACE_PUBLISHED;
use crate::{Error, Identities, RootKey, Secret, Sops, seal};

/// Help that says how to replace a published secret.
pub const HELP: &str = REPLACE_PUBLISHED;

/// Roots. They are stored here in clear and not as digests, because phase keys derive from them.
const ROOTS: [&str; 3] = [
    "R4WH/+lTRezrj60Vw35cSxR+Q0aF9RdxhhZ7dz9c6KQ=", // project/secrets.yaml
    "vluEM5zmlt2g7jJUJL3q+pQpwkV5SlNuLoAbuVxfMXc=", // templates/project/project/secrets.yaml
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", // tools/shared/secrets/derivation.md, tests
];

/// Public halves of the identities.
const RECIPIENTS: [&str; 10] = [
    "age1fxcucwxnyrjtj2m6v4pexkateqlzazkugwm28fs7a6pguyy0d38q97858v", // project/test-identity.txt
    "age1dhwnpwllczl3y3dejs6953pj7e4ywgrl9ac8v94r8nw5tsgwy3yqw4cl55", // project/test-vault-identity.txt
    "age170kn9pu9wffp8raenhf4g7gl9pm0afklya3kuy04j7clt3p929qsrjnl8j", // templates/project/project/test-identity.txt
    "age1rrphsed8kf5f7amyldf5kg5x04du8znfzrs2pj7h3hu6sr6hmc9q6df5df", // tools/shared/secrets/tests/sops
    "age1elhshxq0ln3dungwxtuww0utyr26xgz2x2uly60jmwm09kttxu2s7t9w42", // tools/shared/secrets/tests/sops
    "age1qhredja4362t3h2htg3kk08zs66nfe8qy2qmppcqvqr9unj87pdsedfvy9", // tools/shared/secrets/derivation.md
    "age125lmvgpkxs3funm9cdfm2q9jckc7yxcswlnrf7t8x3sy9wfyx30s36p3kz", // tools/shared/secrets/derivation.md
    "age1jfm9p5vdvxyy5rj82f2vx8j3ljzm4zv0dsj7mv5gwvwjjqzv55fqd9ajyh", // tools/shared/secrets/derivation.md
    "age1zljndz5xcl8wf80syfx2lam5fs0vg0lh56l82cgmle02wtf25seq2m7s0g", // tools/data-drain/tests
    "age1c8vyyaftwkme6tr4ac3643g9y4nt3x8fs4n88m004g5mh4njf4uslluums", // tools/emulators/talos/tests
];

/// SHA-256 of each value in `secrets.yaml`: first of this repository, then of the template.
const VALUES: [&str; 20] = [
    "478587ffe95345eceb8fad15c37e5c4b147e434685f5177186167b773f5ce8a4", // root
    "50d22afadeceeee409bfe358f227f17b5d4de44034a4867f0621a6fa7f98d9a5", // github
    "1af4eb7b0afe53ae9f2625c061a2a9054affc91562d4375e0e1f0722bb63c01d", // ghcr
    "3065d5506331da8227a41df1030509c265b799588592f4516ede41119b258405", // hetzner
    "fd839622cb4cb72472ee4cea4f05a35658fac0bcefde6ac84ed8af5414826dc0", // s3.accessKeyId
    "abebcda2dc42b0cd35951bb2a4e1ff1a958e44b90defb3fcb746d1028a4a241f", // s3.secretAccessKey
    "fa77d7bdb2ae64fbd28ade4f475e5c77621de81da3fa672f5b5e1699cf2b18d0", // s3Reader.accessKeyId
    "ed24bc0bb03d0e89e8bacafb1545ee4ed6a2b273f3db69199787632b32545179", // s3Reader.secretAccessKey
    "f5fd4c362f806c21326c2d4f3da668f86ac6c30b0664f79610cf007e04320ba3", // ghcrReader
    "cd42e465955eaf3a8d6995f107b2b7e75a3e3ace306f6ba34571eac361a81915", // hetznerReader
    "81da52562d048d1d5f701cf6c0b775c4f818e4e4fc25c387caa91b962bf628cb", // root
    "8268f105f8d37634745e681e57d01336e59cdbe5fbca939e4821bdbb20185dd5", // github
    "65807af89138b9861f22ff52244a790d2e10111cc6d227cea7143efc3c7c1a45", // ghcr
    "518fda2266c99411f778317ec78c823145544b850317c25e9175b5ab00937635", // hetzner
    "837b58c6c47c0da2cbcfabf8cd4e5797e31d7de7473e6d03d5db34d970b6a466", // s3.accessKeyId
    "bf8061f00bac730cb63cc24bc76f81ec26b449bf6d465075843ce0bf8100f606", // s3.secretAccessKey
    "d7d5066822b1c7f7e207809da7b825a8707012a42b989b45ed391b8b462df458", // s3Reader.accessKeyId
    "bfe8862402417bceb580c101d2b51ada929ac9ef197ec847f79900e3933093ee", // s3Reader.secretAccessKey
    "fd6ea571c17571185a825971e6dfc7c65467260079f9c1ea39659aedea413041", // ghcrReader
    "28e0b502dd45db366222b0eb9115155617cdd702aaea0b233dd4719df7fec0bd", // hetznerReader
];

/// Returns every published root.
pub fn roots() -> impl Iterator<Item = RootKey> {
    ROOTS
        .into_iter()
        .filter_map(|text| RootKey::parse(&Secret::new(text.into()), "a published root").ok())
}

/// Returns the recipient of every published identity. Recipients whose identity derives from a
/// published root are not listed.
#[must_use]
pub fn recipients() -> &'static [&'static str] {
    &RECIPIENTS
}

/// Returns an error if `secret`, which was read from `source`, is published.
pub(crate) fn refuse(secret: &Secret, source: &str) -> Result<(), Error> {
    if is_published(secret) { Err(Error::Published(source.to_owned())) } else { Ok(()) }
}

/// Returns an error if a published identity decrypts `file`, because then every value in the file is
/// published.
pub(crate) fn refuse_file(file: &std::path::Path) -> Result<(), Error> {
    // An unreadable file is reported when a value of the file is resolved.
    let recipients = Sops::recipients(file).unwrap_or_default();
    if recipients.iter().any(|recipient| RECIPIENTS.contains(&recipient.as_str())) {
        return Err(Error::Published(format!("an identity that opens {}", file.display())));
    }
    Ok(())
}

/// Returns an error if one of `identities` that decrypts `armored` is published.
///
/// # Errors
///
/// [`Error::Published`] when such an identity decrypts the text.
pub fn refuse_sealed(identities: &Identities, armored: &str) -> Result<(), Error> {
    if seal::opens(&identities.among(&RECIPIENTS), armored) {
        return Err(Error::Published("an identity that opens a sealed secret".to_owned()));
    }
    Ok(())
}

/// Whether `secret` is a published value, contains one, or is a published root in another notation.
#[must_use]
pub fn is_published(secret: &Secret) -> bool {
    let is_value = |text: &str| {
        let digest = HEXLOWER.encode(&Sha256::digest(text));
        VALUES.contains(&digest.as_str())
    };
    let is_identity = |text: &str| {
        let identities = Identities::parse(&Secret::new(text.as_bytes().to_vec()));
        identities.is_ok_and(|identities| identities.among(&RECIPIENTS).places().is_some())
    };
    let root = RootKey::parse(secret, "the root");
    if root.is_ok_and(|root| roots().any(|published| published.expose() == root.expose())) {
        return true;
    }
    let Ok(text) = std::str::from_utf8(secret.expose()) else { return false };
    let mut texts: Vec<&str> = text.split_whitespace().collect();
    texts.push(text.trim());
    let json = serde_json::from_str::<Value>(text).ok();
    texts.extend(json.iter().flat_map(strings));
    texts.iter().any(|text| is_value(text) || is_identity(text))
}

/// Returns every string in `value`.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(entries) => entries.values().flat_map(strings).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
