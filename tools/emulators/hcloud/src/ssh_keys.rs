//! SSH keys: creating, listing, changing and deleting them.

use data_encoding::{BASE64, HEXLOWER};
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::labels::Labels;
use crate::list as lists;
use crate::model::SshKey;
use crate::resource::Resource;
use crate::state::State;

#[cfg(test)]
pub(crate) const SAMPLE_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f a-sample";

impl SshKey {
    pub(crate) fn to_json(&self) -> Value {
        let fields = json!({"public_key": self.public_key, "fingerprint": self.fingerprint});
        self.head.to_json_with(fields)
    }
}

/// Returns the MD5 digest of a public key in the notation with colons, or `None` if the text is not a key.
fn fingerprint(public_key: &str) -> Option<String> {
    let mut words = public_key.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let bytes = BASE64.decode(key.as_bytes()).ok()?;
    // RFC 4253, section 6.6: the key begins with the length and the name of its kind.
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    let name = bytes.get(4..4 + usize::try_from(length).ok()?)?;
    let digest = HEXLOWER.encode(&Md5::digest(&bytes));
    let pairs: Vec<_> = (0..16).filter_map(|byte| digest.get(2 * byte..2 * byte + 2)).collect();
    (name == kind.as_bytes()).then(|| pairs.join(":"))
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        public_key: String,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    let fingerprint = fingerprint(&input.public_key)
        .ok_or_else(|| ApiError::invalid_fields(&[("public_key", "is not an SSH public key")]))?;
    state.ssh_keys.require_free_name(&input.name, None)?;
    if state.ssh_keys.iter().any(|key| key.fingerprint == fingerprint) {
        return Err(ApiError::already_used(SshKey::KIND, "fingerprint"));
    }
    let head = state.head(input.name, input.labels)?;
    let key = SshKey { head, public_key: input.public_key, fingerprint };
    let json = key.to_json();
    state.ssh_keys.insert(key);
    Ok(Answer::created(json!({"ssh_key": json})))
}

/// Refuses a reference to a key that does not exist.
pub(crate) fn require_exists(state: &State, id_or_name: &str) -> Result<(), ApiError> {
    let mut heads = state.ssh_keys.iter().map(Resource::head);
    if heads.any(|head| head.name == id_or_name || head.id.to_string() == id_or_name) {
        Ok(())
    } else {
        Err(ApiError::new(404, "not_found", "SSH key not found"))
    }
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let items = state.ssh_keys.iter().map(SshKey::to_json).collect();
    lists::page(call, "ssh_keys", items, &["name", "fingerprint"], &["id", "name"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, ApiError> {
    Ok(Answer::ok(json!({"ssh_key": state.ssh_keys.update(id, call)?.to_json()})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, ApiError> {
    state.ssh_keys.get(id)?;
    state.ssh_keys.remove(id);
    Ok(Answer::no_content())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_equals_what_ssh_keygen_prints() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key.pub");
        std::fs::write(&file, SAMPLE_KEY).unwrap();
        let output = std::process::Command::new("ssh-keygen")
            .args(["-l", "-E", "md5", "-f"])
            .arg(&file)
            .output()
            .expect("ssh-keygen is needed for this test");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains(&fingerprint(SAMPLE_KEY).unwrap()), "{printed}");
        assert_eq!(fingerprint("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAABAgME"), None);
        assert_eq!(fingerprint("ssh-ed25519"), None);
    }
}
