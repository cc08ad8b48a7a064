//! The object store: versitygw, on a folder of the lab's.

use std::path::PathBuf;
use std::process::Command;

use crate::Error;
use crate::files;
use crate::place::Place;

fn folder(place: &Place) -> PathBuf {
    place.directory.join("store")
}

/// The file that holds its credentials, as `ACCESS_KEY:SECRET_KEY`.
pub(crate) fn credentials(place: &Place) -> PathBuf {
    place.secret("store")
}

/// Sees to its folders, its credentials and its buckets, each a folder.
pub(crate) fn prepare(place: &Place, buckets: &[String]) -> Result<(), Error> {
    files::secret(&credentials(place), 32, |it| format!("lab:{}", files::hex(it)))?;
    files::folder(&folder(place).join("versions"))?;
    for bucket in buckets {
        files::folder(&folder(place).join("buckets").join(bucket))?;
    }
    Ok(())
}

/// The command that runs it.
pub(crate) fn command(place: &Place) -> Result<Command, Error> {
    let secret = files::read(&credentials(place))?.unwrap_or_default();
    let secret = String::from_utf8_lossy(&secret).into_owned();
    let (access, secret) = secret.trim().split_once(':').unwrap_or_default();
    let mut command = Command::new(place.program("versitygw"));
    // It takes them from its environment, or from its arguments, which anybody may list.
    command.env_clear().env("ROOT_ACCESS_KEY", access).env("ROOT_SECRET_KEY", secret);
    command.args(["--port", &place.store().to_string(), "posix", "--versioning-dir"]);
    command.arg(folder(place).join("versions")).arg(folder(place).join("buckets"));
    Ok(command)
}
