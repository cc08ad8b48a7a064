//! The services of a load balancer: which port goes where, and how health is looked at.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::action::{Effect, begun};
use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::routes::nowhere;
use crate::store::State;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) protocol: String,
    pub(crate) listen_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) proxyprotocol: bool,
    pub(crate) check: Check,
    http: Http,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Check {
    protocol: String,
    pub(crate) port: u16,
    pub(crate) interval: u32,
    pub(crate) timeout: u32,
    pub(crate) retries: u32,
    http: Option<CheckHttp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CheckHttp {
    domain: Option<String>,
    path: String,
    response: Option<String>,
    status_codes: Vec<String>,
    tls: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the words of the API")]
struct Http {
    cookie_name: String,
    cookie_lifetime: u32,
    certificates: Vec<u64>,
    redirect_http: bool,
    sticky_sessions: bool,
    timeout_idle: u32,
}

/// What a client says of a service; on an update, what is missing stays.
#[derive(Deserialize)]
pub(crate) struct ServiceInput {
    protocol: Option<String>,
    listen_port: Option<u16>,
    destination_port: Option<u16>,
    proxyprotocol: Option<bool>,
    health_check: Option<CheckInput>,
    http: Option<HttpInput>,
}

#[derive(Default, Deserialize)]
struct CheckInput {
    protocol: Option<String>,
    port: Option<u16>,
    interval: Option<u32>,
    timeout: Option<u32>,
    retries: Option<u32>,
    http: Option<CheckHttpInput>,
}

#[derive(Default, Deserialize)]
struct CheckHttpInput {
    domain: Option<String>,
    path: Option<String>,
    response: Option<String>,
    status_codes: Option<Vec<String>>,
    tls: Option<bool>,
}

#[derive(Default, Deserialize)]
struct HttpInput {
    cookie_name: Option<String>,
    cookie_lifetime: Option<u32>,
    certificates: Option<Vec<u64>>,
    redirect_http: Option<bool>,
    sticky_sessions: Option<bool>,
    timeout_idle: Option<u32>,
}

impl Service {
    pub(crate) fn shown(&self) -> Value {
        let check = &self.check;
        let mut health = json!({"protocol": check.protocol, "port": check.port, "interval": check.interval, "timeout": check.timeout, "retries": check.retries});
        if let Some(http) = &check.http {
            health["http"] = json!(http);
        }
        let mut shown = json!({
            "protocol": self.protocol, "listen_port": self.listen_port, "destination_port": self.destination_port,
            "proxyprotocol": self.proxyprotocol, "health_check": health,
        });
        if self.protocol != "tcp" {
            shown["http"] = json!(self.http);
        }
        shown
    }

    /// What was, where nothing else is asked for; what the API does by itself, where nothing was.
    fn from(input: ServiceInput, was: Option<&Self>) -> Result<Self, Refusal> {
        let protocol = input
            .protocol
            .or_else(|| was.map(|it| it.protocol.clone()))
            .ok_or_else(|| missing("protocol"))?;
        let usual = match protocol.as_str() {
            "tcp" => None,
            "http" => Some(80),
            "https" => Some(443),
            _ => return Err(Refusal::invalid(&[("protocol", "must be tcp, http or https")])),
        };
        let listen_port = input.listen_port.or(usual).ok_or_else(|| missing("listen_port"))?;
        let to = usual.map(|_| 80);
        let destination_port = input
            .destination_port
            .or(was.map(|it| it.destination_port))
            .or(to)
            .ok_or_else(|| missing("destination_port"))?;
        let check = Check::from(
            input.health_check.unwrap_or_default(),
            was.map(|it| &it.check),
            destination_port,
        )?;
        let http = input.http.unwrap_or_default();
        let had = was.map(|it| &it.http);
        let http = Http {
            cookie_name: http
                .cookie_name
                .or(had.map(|it| it.cookie_name.clone()))
                .unwrap_or_else(|| "HCLBSTICKY".to_owned()),
            cookie_lifetime: http
                .cookie_lifetime
                .or(had.map(|it| it.cookie_lifetime))
                .unwrap_or(300),
            certificates: http
                .certificates
                .or(had.map(|it| it.certificates.clone()))
                .unwrap_or_default(),
            redirect_http: http.redirect_http.or(had.map(|it| it.redirect_http)).unwrap_or(false),
            sticky_sessions: http
                .sticky_sessions
                .or(had.map(|it| it.sticky_sessions))
                .unwrap_or(false),
            timeout_idle: http.timeout_idle.or(had.map(|it| it.timeout_idle)).unwrap_or(60),
        };
        let proxyprotocol = input.proxyprotocol.or(was.map(|it| it.proxyprotocol)).unwrap_or(false);
        if listen_port == 0 || destination_port == 0 {
            return Err(Refusal::invalid(&[("listen_port", "must be 1 to 65535")]));
        }
        Ok(Self { protocol, listen_port, destination_port, proxyprotocol, check, http })
    }
}

impl Check {
    fn from(input: CheckInput, was: Option<&Self>, destination_port: u16) -> Result<Self, Refusal> {
        let protocol = input
            .protocol
            .or_else(|| was.map(|it| it.protocol.clone()))
            .unwrap_or_else(|| "tcp".to_owned());
        let interval = input.interval.or(was.map(|it| it.interval)).unwrap_or(15);
        let timeout = input.timeout.or(was.map(|it| it.timeout)).unwrap_or(10);
        let retries = input.retries.or(was.map(|it| it.retries)).unwrap_or(3);
        if !(3..=60).contains(&interval)
            || !(1..=60).contains(&timeout)
            || !(1..=5).contains(&retries)
        {
            return Err(Refusal::invalid(&[(
                "health_check",
                "interval is 3 to 60, timeout 1 to 60, retries 1 to 5",
            )]));
        }
        let http = match protocol.as_str() {
            "tcp" => None,
            "http" => {
                let http = input.http.unwrap_or_default();
                let had = was.and_then(|it| it.http.as_ref());
                Some(CheckHttp {
                    domain: http.domain.or(had.and_then(|it| it.domain.clone())),
                    path: http
                        .path
                        .or(had.map(|it| it.path.clone()))
                        .unwrap_or_else(|| "/".to_owned()),
                    response: http
                        .response
                        .or(had.and_then(|it| it.response.clone()))
                        .or(Some(String::new())),
                    status_codes: http
                        .status_codes
                        .or(had.map(|it| it.status_codes.clone()))
                        .unwrap_or_else(|| vec!["2??".to_owned(), "3??".to_owned()]),
                    tls: http.tls.or(had.map(|it| it.tls)).unwrap_or(false),
                })
            }
            _ => return Err(Refusal::invalid(&[("health_check.protocol", "must be tcp or http")])),
        };
        let port = input.port.or(was.map(|it| it.port)).unwrap_or(destination_port);
        Ok(Self { protocol, port, interval, timeout, retries, http })
    }
}

fn missing(field: &str) -> Refusal {
    Refusal::invalid(&[(field, "is required")])
}

/// Adds a service to a balancer that has room and a free port.
pub(crate) fn add(state: &mut State, id: u64, input: ServiceInput) -> Result<(), Refusal> {
    let balancer = state.load_balancers.get_mut(id)?;
    let service = Service::from(input, None)?;
    if balancer.services.iter().any(|it| it.listen_port == service.listen_port) {
        return Err(Refusal::because(
            "source_port_already_used",
            format!("source port {} is already in use", service.listen_port),
        ));
    }
    if balancer.services.len() >= balancer.kind_of()?.services {
        return Err(Refusal::new(
            403,
            "resource_limit_exceeded",
            "the load balancer type takes no more services",
        ));
    }
    balancer.services.push(service);
    Ok(())
}

/// `add_service`, `update_service`, `delete_service`.
pub(crate) fn act(
    state: &mut State,
    call: &Call,
    id: u64,
    command: &str,
) -> Result<Answer, Refusal> {
    state.unlocked("load_balancer", id)?;
    let input: ServiceInput = call.input()?;
    if command == "add_service" {
        add(state, id, input)?;
    } else {
        let port = input.listen_port.ok_or_else(|| missing("listen_port"))?;
        let services = &mut state.load_balancers.get_mut(id)?.services;
        let place = services.iter().position(|it| it.listen_port == port);
        let service = place.and_then(|it| services.get_mut(it)).ok_or_else(|| {
            Refusal::new(404, "not_found", format!("no service listens on {port}"))
        })?;
        match command {
            "update_service" => *service = Service::from(input, Some(service))?,
            "delete_service" => services.retain(|it| it.listen_port != port),
            _ => return Err(nowhere(&["load_balancers", "actions", command])),
        }
    }
    Ok(begun(&state.begin(command, &[("load_balancer", id)], Effect::Nothing)))
}
