//! A new SOPS file, which the real `sops` opens and edits.

use std::fmt::Write as _;

use data_encoding::HEXUPPER;
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::cipher::DataKey;
use super::node::Value;
use crate::{AgeRecipient, Error, Secret, create, seal};

/// The version of SOPS whose format is written, measured with the real one.
const VERSION: &str = "3.13.3";

/// A YAML file with `entries`, in this order, for `recipients`. The name of an entry is `a`, or `a.b`
/// for one in a map; those of one map stand beside one another. `now` is an RFC 3339 time in UTC.
pub(crate) fn write(
    entries: &[(&str, Secret)],
    recipients: &[AgeRecipient],
    now: &str,
) -> Result<String, Error> {
    let random = create::random()?;
    let key = DataKey::new(&random).ok_or_else(|| std::io::Error::other("32 bytes are a key"))?;
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
