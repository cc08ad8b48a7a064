//! The object store: versitygw, on a folder of the lab's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::Error;
use crate::files;
use crate::place::Place;

/// For which requests are signed.
pub(crate) const REGION: &str = "us-east-1";

const ACCESS: &str = "accessKeyId";
const SECRET: &str = "secretAccessKey";

fn folder(place: &Place) -> PathBuf {
    place.directory.join("store")
}

/// The file that holds its credentials, as documents want them.
pub(crate) fn credentials(place: &Place) -> PathBuf {
    place.secret("store")
}

/// Sees to its folders, its credentials and its buckets, each a folder.
pub(crate) fn prepare(place: &Place, buckets: &[&str]) -> Result<(), Error> {
    files::secret(&credentials(place), 32, |it| {
        json!({ACCESS: "lab", SECRET: files::hex(it)}).to_string()
    })?;
    files::folder(&folder(place).join("versions"))?;
    for bucket in buckets {
        files::folder(&folder(place).join("buckets").join(bucket))?;
    }
    Ok(())
}

/// The command that runs it.
pub(crate) fn command(place: &Place) -> Result<Command, Error> {
    let path = credentials(place);
    let text = files::read(&path)?.unwrap_or_default();
    let credentials: BTreeMap<String, String> =
        serde_json::from_slice(&text).map_err(|source| Error::Garbled { path, source })?;
    let part = |name| credentials.get(name).map(String::as_str).unwrap_or_default();
    let mut command = Command::new(place.program("versitygw"));
    // It takes them from its environment, or from its arguments, which anybody may list.
    command.env_clear().env("ROOT_ACCESS_KEY", part(ACCESS)).env("ROOT_SECRET_KEY", part(SECRET));
    command
        .args(["--port", &place.store().to_string(), "--region", REGION, "posix"])
        .arg("--versioning-dir");
    command.arg(folder(place).join("versions")).arg(folder(place).join("buckets"));
    Ok(command)
}
