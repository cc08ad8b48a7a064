//! Writer of new SOPS files, which `sops` can decrypt and edit.

use std::fmt::Write as _;

use data_encoding::HEXUPPER;
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::cipher::DataKey;
use super::node::Value;
use crate::random::random;
use crate::{AgeRecipient, Error, Secret, seal};

/// Version of SOPS whose format is written. `tests/oracles.rs` compares the format with this version.
const VERSION: &str = "3.13.3";

/// Writes a YAML file with `entries`, in this order, for `recipients`. The name of an entry is `a`, or
/// `a.b` for an entry of a map; entries of one map must be adjacent. `now` is an RFC 3339 time in UTC.
pub(crate) fn write(
    entries: &[(&str, Secret)],
    recipients: &[AgeRecipient],
    now: &str,
) -> Result<String, Error> {
    let random = random()?;
    let key = DataKey::new(&random)
        .ok_or_else(|| std::io::Error::other("the data key is not 32 bytes"))?;
    let (mut text, mut map, mut mac) = (String::new(), "", Sha512::new());
    for (name, secret) in entries {
        let value = Value::Text(Zeroizing::new(secret.text()?.to_owned()));
        mac.update(value.mac_bytes());
        let context = name.replace('.', ":") + ":";
        let sealed = key.seal(secret.text()?, &context)?;
        let _ = match name.split_once('.') {
            Some((above, below)) => {
                if above != map {
                    map = above;
                    text.push_str(above);
                    text.push_str(":\n");
                }
                writeln!(text, "    {below}: {sealed}")
            }
            None => writeln!(text, "{name}: {sealed}"),
        };
    }
    let mac = HEXUPPER.encode(&mac.finalize());
    text.push_str("sops:\n    age:\n");
    for recipient in recipients {
        text.push_str("        - enc: |\n");
        for line in seal::seal_to([recipient], random.expose())?.lines() {
            let _ = writeln!(text, "            {line}");
        }
        let _ = writeln!(text, "          recipient: {recipient}");
    }
    let _ = writeln!(text, "    lastmodified: \"{now}\"\n    mac: {}", key.seal(&mac, now)?);
    let _ = writeln!(text, "    unencrypted_suffix: _unencrypted\n    version: {VERSION}");
    Ok(text)
}
