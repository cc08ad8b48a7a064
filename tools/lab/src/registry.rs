//! Runs the registry: Debian's `docker-registry`, with its data in the lab's folder.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::Error;
use crate::files;
use crate::install;
use crate::paths::LabPaths;

fn configuration(paths: &LabPaths) -> PathBuf {
    paths.directory.join("registry/config.yml")
}

/// Returns the log with one line for each request that the registry has answered.
pub(crate) fn access_log(paths: &LabPaths) -> PathBuf {
    paths.log("registry-access")
}

/// Writes the registry's settings.
pub(crate) fn prepare(paths: &LabPaths) -> Result<(), Error> {
    // The secret must survive a restart, because uploads continue only under the same secret
    // (https://distribution.github.io/distribution/about/configuration/#http).
    let secret = files::secret(&paths.secret("registry-uploads"), 32, files::hex)?;
    let settings = json!({
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": paths.directory.join("registry/data")},
            "delete": {"enabled": true},
        },
        "http": {"addr": paths.registry().to_string(), "secret": secret},
    });
    files::settle(&configuration(paths), format!("{settings:#}\n").as_bytes(), 0o600)?;
    Ok(())
}

/// Returns the command that runs the registry. Its standard output is the log of requests.
pub(crate) fn command(paths: &LabPaths) -> Result<Command, Error> {
    let program = install::find("docker-registry");
    let program = program.ok_or(Error::Missing { packages: vec!["docker-registry"] })?;
    let mut command = Command::new(program);
    command.arg("serve").arg(configuration(paths)).env_clear();
    command.stdout(files::log(&access_log(paths))?);
    Ok(command)
}
