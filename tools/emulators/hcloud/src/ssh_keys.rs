//! SSH keys.

use data_encoding::{BASE64, HEXLOWER};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::labels::Labels;
use crate::list as lists;
use crate::store::{Head, Resource, State, resource, shown};

#[cfg(test)]
pub(crate) const SAMPLE: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f a-sample";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SshKey {
    head: Head,
    public_key: String,
    fingerprint: String,
}

resource!(SshKey, "ssh_key");

impl SshKey {
    pub(crate) fn shown(&self) -> Value {
        shown(&self.head, json!({"public_key": self.public_key, "fingerprint": self.fingerprint}))
    }
}

/// The MD5 digest of the key itself, in the old notation with colons; nothing, if it is not a key.
fn fingerprint(public_key: &str) -> Option<String> {
    let mut words = public_key.split_whitespace();
    let (kind, key) = (words.next()?, words.next()?);
    let bytes = BASE64.decode(key.as_bytes()).ok()?;
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    let named = bytes.get(4..4 + usize::try_from(length).ok()?)?;
    let digest = HEXLOWER.encode(&Md5::digest(&bytes));
    let pairs: Vec<_> = (0..16).filter_map(|it| digest.get(2 * it..2 * it + 2)).collect();
    (named == kind.as_bytes()).then(|| pairs.join(":"))
}

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Answer, Refusal> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
        public_key: String,
        labels: Option<Labels>,
    }
    let input: Input = call.input()?;
    let fingerprint = fingerprint(&input.public_key)
        .ok_or_else(|| Refusal::invalid(&[("public_key", "is not an SSH public key")]))?;
    state.ssh_keys.unique(&input.name, 0)?;
    if state.ssh_keys.iter().any(|it| it.fingerprint == fingerprint) {
        return Err(Refusal::taken(SshKey::KIND, "fingerprint"));
    }
    let head = state.head(input.name, input.labels)?;
    let key = SshKey { head, public_key: input.public_key, fingerprint };
    let shown = key.shown();
    state.ssh_keys.insert(key);
    Ok(Answer::made(json!({"ssh_key": shown})))
}

/// A key by id or name.
pub(crate) fn find(state: &State, wanted: &str) -> Result<(), Refusal> {
    let found =
        state.ssh_keys.iter().any(|it| it.head.name == wanted || it.head.id.to_string() == wanted);
    if found { Ok(()) } else { Err(Refusal::new(404, "not_found", "SSH key not found")) }
}

pub(crate) fn list(state: &State, call: &Call) -> Result<Answer, Refusal> {
    let items = state.ssh_keys.iter().map(SshKey::shown).collect();
    lists::page(call, "ssh_keys", items, &["name", "fingerprint"], &["id", "name"])
}

pub(crate) fn update(state: &mut State, call: &Call, id: u64) -> Result<Answer, Refusal> {
    Ok(Answer::ok(json!({"ssh_key": state.ssh_keys.update(id, call)?.shown()})))
}

pub(crate) fn delete(state: &mut State, id: u64) -> Result<Answer, Refusal> {
    state.ssh_keys.get(id)?;
    state.ssh_keys.remove(id);
    Ok(Answer::gone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_one_that_ssh_keygen_prints() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key.pub");
        std::fs::write(&file, SAMPLE).unwrap();
        let output = std::process::Command::new("ssh-keygen")
            .args(["-l", "-E", "md5", "-f"])
            .arg(&file)
            .output()
            .expect("ssh-keygen is needed for this test");
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains(&fingerprint(SAMPLE).unwrap()), "{printed}");
        assert_eq!(fingerprint("ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAABAgME"), None);
        assert_eq!(fingerprint("ssh-ed25519"), None);
    }
}
