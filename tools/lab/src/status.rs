//! Reports the running services, their addresses and their counts of writes as JSON.

use serde_json::{Map, Value, json};

use crate::Error;
use crate::paths::LabPaths;
use crate::service::Service;
use crate::writes::Writes;
use crate::{cloud, install, nix, state, store};

/// Returns the status of the lab without changing anything.
pub(crate) fn status(paths: &LabPaths) -> Result<Value, Error> {
    if !install::is_root() {
        state::check_owner(paths)?;
    }
    let running = state::is_running(paths)?;
    let state = state::read(paths)?.filter(|_| running);
    // The network of the running lab, which may differ from the network on the command line.
    let network =
        state.as_ref().and_then(|state| state.network.parse().ok()).unwrap_or(paths.network);
    let paths = &LabPaths { network, ..paths.clone() };
    let services = if running { state::wanted(paths)? } else { Vec::new() };
    let component = |service: &Service| {
        let record = state.as_ref().and_then(|state| state.services.get(service.name()));
        let process = match service {
            Service::Cloud => state.as_ref().map(|state| state.daemon),
            _ => record.and_then(|record| record.process),
        };
        json!({
            "name": service.name(),
            "program": service.program(),
            "pid": process.filter(|process| process.is_running()).map(|process| process.pid),
            "address": service.address(paths),
            "log": service.log(paths),
            "healthy": service.answers(paths),
            "restarts": record.map_or(0, |record| record.restarts),
        })
    };
    Ok(json!({
        "running": running,
        "directory": paths.directory,
        "network": paths.network.to_string(),
        "components": services.iter().map(component).collect::<Vec<_>>(),
        "endpoints": endpoints(paths, &services),
        "writes": Writes::count(paths)?,
    }))
}

/// Returns the URL of each service for a user, and the files that hold its secrets.
fn endpoints(paths: &LabPaths, services: &[Service]) -> Value {
    let mut endpoints = Map::new();
    for service in services {
        let url = format!("http://{}", service.address(paths));
        let endpoint = match service {
            Service::Forge => json!({"url": url, "tokens": paths.directory.join("secrets")}),
            Service::Registry => json!({"url": url, "flux": format!("{url}/fluxcd")}),
            Service::Cloud => {
                let factory = format!("http://{}", paths.factory());
                json!({"url": format!("{url}/v1"), "token": cloud::token(paths), "factory": factory})
            }
            Service::Store => {
                json!({"url": url, "credentials": store::Account::Root.credentials(paths)})
            }
        };
        endpoints.insert(service.name().to_owned(), endpoint);
    }
    if !services.is_empty() {
        let settings = paths.directory.join("nix");
        endpoints
            .insert("nix".to_owned(), json!({"nixpkgs": nix::input(paths), "settings": settings}));
    }
    Value::Object(endpoints)
}
