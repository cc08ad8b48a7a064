//! What runs, where, and what has been written to it, as JSON.

use serde_json::{Map, Value, json};

use crate::Error;
use crate::place::Place;
use crate::service::Service;
use crate::writes::Writes;
use crate::{cloud, nix, state, store};

/// Looks, and changes nothing.
pub(crate) fn status(place: &Place) -> Result<Value, Error> {
    let running = state::is_running(place)?;
    let state = state::read(place)?.filter(|_| running);
    // Where it runs, not where it would if it were started now.
    let network = state.as_ref().and_then(|it| it.network.parse().ok()).unwrap_or(place.network);
    let place = &Place { network, ..place.clone() };
    let services = if running { state::wanted(place)? } else { Vec::new() };
    let component = |service: &Service| {
        let record = state.as_ref().and_then(|it| it.services.get(service.name()));
        let process = match service {
            Service::Cloud => state.as_ref().map(|it| it.daemon),
            _ => record.and_then(|it| it.process),
        };
        json!({
            "name": service.name(),
            "program": service.program(),
            "pid": process.filter(|it| it.is_running()).map(|it| it.pid),
            "address": service.address(place),
            "log": service.log(place),
            "healthy": service.answers(place),
            "restarts": record.map_or(0, |it| it.restarts),
        })
    };
    Ok(json!({
        "running": running,
        "directory": place.directory,
        "network": place.network.to_string(),
        "components": services.iter().map(component).collect::<Vec<_>>(),
        "endpoints": endpoints(place, &services),
        "writes": Writes::count(place)?,
    }))
}

/// Where each remote is, for a person who wants to look at it: secrets by the file that holds them.
fn endpoints(place: &Place, services: &[Service]) -> Value {
    let mut endpoints = Map::new();
    for service in services {
        let url = format!("http://{}", service.address(place));
        let endpoint = match service {
            Service::Forge => json!({"url": url, "tokens": place.directory.join("secrets")}),
            Service::Registry => json!({"url": url, "flux": format!("{url}/fluxcd")}),
            Service::Cloud => json!({"url": format!("{url}/v1"), "token": cloud::token(place)}),
            Service::Store => {
                json!({"url": url, "credentials": store::Account::Root.credentials(place)})
            }
        };
        endpoints.insert(service.name().to_owned(), endpoint);
    }
    if !services.is_empty() {
        let settings = place.directory.join("nix");
        endpoints
            .insert("nix".to_owned(), json!({"nixpkgs": nix::input(place), "settings": settings}));
    }
    Value::Object(endpoints)
}
