//! The registry: Debian's, on a folder of the lab's.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::Error;
use crate::files;
use crate::install;
use crate::place::Place;

fn configuration(place: &Place) -> PathBuf {
    place.directory.join("registry/config.yml")
}

/// Every request that it has answered.
pub(crate) fn access_log(place: &Place) -> PathBuf {
    place.log("registry-access")
}

/// Sees to its settings.
pub(crate) fn prepare(place: &Place) -> Result<(), Error> {
    // Uploads go on after a restart only under the same secret.
    let secret = files::secret(&place.secret("registry-uploads"), 32, files::hex)?;
    let settings = json!({
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": place.directory.join("registry/data")},
            "delete": {"enabled": true},
        },
        "http": {"addr": place.registry().to_string(), "secret": secret},
    });
    files::settle(&configuration(place), format!("{settings:#}\n").as_bytes(), 0o600)?;
    Ok(())
}

/// The command that runs it. Its standard output is the log of requests.
pub(crate) fn command(place: &Place) -> Result<Command, Error> {
    let program = install::find("docker-registry");
    let program = program.ok_or(Error::Missing { packages: vec!["docker-registry"] })?;
    let mut command = Command::new(program);
    command.arg("serve").arg(configuration(place)).env_clear();
    command.stdout(files::log(&access_log(place))?);
    Ok(command)
}
