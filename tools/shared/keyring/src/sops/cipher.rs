//! A value as SOPS writes it: `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`.

use aes_gcm::aead::consts::U32;
use aes_gcm::aead::{Aead as _, Nonce, Payload};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, KeyInit as _};
use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::node::Value;
use crate::{Error, Secret, create};

type Cipher = AesGcm<Aes256, U32>;

/// The key of every value in a file.
pub(super) struct DataKey(Cipher);

/// What was under the cipher.
pub(super) enum Opened {
    Value(Value),
    Comment,
}

/// The tag of AES-GCM, at the end of what it encrypts.
const TAG_BYTES: usize = 16;

const BEGIN: &str = "ENC[AES256_GCM,";

/// Whether `text` looks like an encrypted value.
pub(super) fn is_encrypted(text: &str) -> bool {
    text.starts_with(BEGIN)
}

impl DataKey {
    /// `None` unless it is 32 bytes.
    pub(super) fn new(key: &Secret) -> Option<Self> {
        Cipher::new_from_slice(key.expose()).ok().map(Self)
    }

    /// Opens `text`, which is bound to `context`: the way to it. The error completes a sentence
    /// about the value.
    pub(super) fn open(&self, text: &str, context: &str) -> Result<Opened, &'static str> {
        const NOT_ENCRYPTED: &str = "is not encrypted";
        let fields = text.strip_prefix(BEGIN).and_then(|it| it.strip_suffix(']'));
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
        let plain = self.0.decrypt(&nonce, payload).map_err(|_| "does not open")?;
        typed(kind, Zeroizing::new(plain)).ok_or("is not of the type that it is said to be")
    }
}

impl DataKey {
    /// Encrypts `text`, and binds it to `context`.
    pub(super) fn seal(&self, text: &str, context: &str) -> Result<String, Error> {
        let failed = |what: &str| Error::from(std::io::Error::other(what.to_owned()));
        let iv = create::random()?;
        let nonce = Nonce::<Cipher>::try_from(iv.expose()).map_err(|_| failed("32 bytes"))?;
        let payload = Payload { msg: text.as_bytes(), aad: context.as_bytes() };
        let sealed = self.0.encrypt(&nonce, payload).map_err(|_| failed("it is too long"))?;
        let (data, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_BYTES));
        let [data, iv, tag] = [data, iv.expose(), tag].map(|bytes| BASE64.encode(bytes));
        Ok(format!("{BEGIN}data:{data},iv:{iv},tag:{tag},type:str]"))
    }
}

/// `plain` as the type that it had before.
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
