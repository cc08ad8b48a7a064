//! Greets over HTTP. `greeter serve` (the default) answers requests. `greeter prepare` runs before it as
//! root, gives the volume to the service's user, and ends.

use std::env;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use greeter::{Counter, log, prepare, server};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line("error", &[("message", &error)]);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let data = PathBuf::from(env::var_os("GREETER_DATA").unwrap_or_else(|| "/data".into()));
    let verb = env::args().nth(1);
    match verb.as_deref() {
        None | Some("serve") => {
            let address = env::var("GREETER_ADDRESS").unwrap_or_else(|_| "0.0.0.0:8080".to_owned());
            let counter = Counter::open(&data).map_err(|error| {
                format!("cannot read the counter in {}: {error}", data.display())
            })?;
            let listener = TcpListener::bind(&address)
                .map_err(|error| format!("cannot listen on {address}: {error}"))?;
            server::run(&listener, &Arc::new(counter)).map_err(|error| error.to_string())
        }
        Some("prepare") => {
            let owner = env::var("GREETER_OWNER").unwrap_or_else(|_| "65532:65532".to_owned());
            let numbers = owner
                .split_once(':')
                .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
            let (user, group) = numbers
                .ok_or("GREETER_OWNER is not of the form UID:GID, for example 65532:65532")?;
            prepare(&data, user, group)
                .map_err(|error| format!("cannot change the owner of {}: {error}", data.display()))
        }
        Some(other) => Err(format!("`{other}` is neither `serve` nor `prepare`")),
    }
}
