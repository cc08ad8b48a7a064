//! Encryption of one value, in the notation of SOPS: `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`.

use aes_gcm::aead::consts::U32;
use aes_gcm::aead::{Aead as _, Nonce, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, KeyInit as _};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::node::Value;
use crate::random::random;
use crate::{Error, Secret};

type Cipher = AesGcm<Aes256, U32>;

/// Key that encrypts every value of a file.
pub(super) struct DataKey(Cipher);

/// Decrypted content of one value.
pub(super) enum Opened {
    Value(Value),
    Comment,
}

/// Length in bytes of the AES-GCM tag, which follows the ciphertext (NIST SP 800-38D).
const TAG_BYTES: usize = 16;

const BEGIN: &str = "ENC[AES256_GCM,";

/// Whether `text` looks like an encrypted value.
pub(super) fn is_encrypted(text: &str) -> bool {
    text.starts_with(BEGIN)
}

impl DataKey {
    /// Creates a cipher; `None` unless `key` has 32 bytes.
    pub(super) fn new(key: &Secret) -> Option<Self> {
        Cipher::new_from_slice(key.expose()).ok().map(Self)
    }

    /// Decrypts `text`, which is bound to `context`, the path to the value in the file. The error
    /// completes a sentence that begins with the name of the value.
    pub(super) fn open(&self, text: &str, context: &str) -> Result<Opened, &'static str> {
        const NOT_ENCRYPTED: &str = "is not encrypted";
        let fields = text.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(']'));
        let mut fields = fields.ok_or(NOT_ENCRYPTED)?.split(',');
        let mut field = |name| fields.next()?.strip_prefix(name)?.strip_prefix(':');
        let mut bytes = |name| BASE64.decode(field(name)?.as_bytes()).ok();
        let (data, iv, tag) = (bytes("data"), bytes("iv"), bytes("tag"));
        let (Some(mut data), Some(iv), Some(mut tag), Some(kind)) = (data, iv, tag, field("type"))
        else {
            return Err(NOT_ENCRYPTED);
        };
        data.append(&mut tag);
        let nonce = Nonce::<Cipher>::try_from(iv.as_slice()).map_err(|_| NOT_ENCRYPTED)?;
        let payload = Payload { msg: &data, aad: context.as_bytes() };
        let plain = self.0.decrypt(&nonce, payload).map_err(|_| "does not decrypt")?;
        typed(kind, Zeroizing::new(plain)).ok_or("does not have the type that its metadata names")
    }
}

impl DataKey {
    /// Encrypts `text`, and binds the ciphertext to `context`.
    pub(super) fn seal(&self, text: &str, context: &str) -> Result<String, Error> {
        let failed = |what: &str| Error::from(std::io::Error::other(what.to_owned()));
        let iv = random()?;
        let nonce = Nonce::<Cipher>::try_from(iv.expose())
            .map_err(|_| failed("the nonce is not 32 bytes"))?;
        let payload = Payload { msg: text.as_bytes(), aad: context.as_bytes() };
        let sealed = self
            .0
            .encrypt(&nonce, payload)
            .map_err(|_| failed("a value is too long for AES-GCM"))?;
        let (data, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_BYTES));
        let [data, iv, tag] = [data, iv.expose(), tag].map(|bytes| BASE64.encode(bytes));
        Ok(format!("{BEGIN}data:{data},iv:{iv},tag:{tag},type:str]"))
    }
}

/// Converts `plain` to the type that it had before encryption.
fn typed(kind: &str, plain: Zeroizing<Vec<u8>>) -> Option<Opened> {
    if kind == "bytes" {
        return Some(Opened::Value(Value::Bytes(plain)));
    }
    let text = Zeroizing::new(std::str::from_utf8(&plain).ok()?.to_owned());
    Some(Opened::Value(match kind {
        "str" | "time" => Value::Text(text),
        "int" => Value::Number(text.parse::<i64>().ok()?.to_string()),
        "float" => Value::Number(text.parse::<f64>().ok().map(|_| text.to_string())?),
        "bool" => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::Bool(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::Bool(false),
            _ => return None,
        },
        "comment" => return Some(Opened::Comment),
        _ => return None,
    }))
}
