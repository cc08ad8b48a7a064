//! The services of a load balancer: listening ports, destination ports and health checks.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Answer;
use crate::command::Command;
use crate::error::ApiError;
use crate::model::{HealthCheck, HttpCheck, HttpOptions, Service};
use crate::state::State;

/// A service as a client describes it. On an update, an absent field keeps its value.
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
    http: Option<HttpCheckInput>,
}

#[derive(Default, Deserialize)]
struct HttpCheckInput {
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
    pub(crate) fn to_json(&self) -> Value {
        let check = &self.check;
        let mut health = json!({"protocol": check.protocol, "port": check.port, "interval": check.interval, "timeout": check.timeout, "retries": check.retries});
        if let Some(http) = &check.http {
            health["http"] = json!(http);
        }
        let mut service = json!({
            "protocol": self.protocol, "listen_port": self.listen_port, "destination_port": self.destination_port,
            "proxyprotocol": self.proxyprotocol, "health_check": health,
        });
        if self.protocol != "tcp" {
            service["http"] = json!(self.http);
        }
        service
    }
}

impl ServiceInput {
    /// Returns the service, where an absent field keeps the value of `before` or gets the API's default.
    fn service(self, before: Option<&Service>) -> Result<Service, ApiError> {
        let protocol = self
            .protocol
            .or_else(|| before.map(|service| service.protocol.clone()))
            .ok_or_else(|| ApiError::required("protocol"))?;
        let default_port = match protocol.as_str() {
            "tcp" => None,
            "http" => Some(80),
            "https" => Some(443),
            _ => {
                return Err(ApiError::invalid_fields(&[(
                    "protocol",
                    "must be tcp, http or https",
                )]));
            }
        };
        let listen_port =
            self.listen_port.or(default_port).ok_or_else(|| ApiError::required("listen_port"))?;
        let destination_port = self
            .destination_port
            .or(before.map(|service| service.destination_port))
            .or(default_port.map(|_| 80))
            .ok_or_else(|| ApiError::required("destination_port"))?;
        let check = self
            .health_check
            .unwrap_or_default()
            .check(before.map(|service| &service.check), destination_port)?;
        let http = self.http.unwrap_or_default().options(before.map(|service| &service.http));
        let proxyprotocol =
            self.proxyprotocol.or(before.map(|service| service.proxyprotocol)).unwrap_or(false);
        if listen_port == 0 || destination_port == 0 {
            return Err(ApiError::invalid_fields(&[("listen_port", "must be 1 to 65535")]));
        }
        Ok(Service { protocol, listen_port, destination_port, proxyprotocol, check, http })
    }
}

impl HttpInput {
    fn options(self, before: Option<&HttpOptions>) -> HttpOptions {
        HttpOptions {
            cookie_name: self
                .cookie_name
                .or(before.map(|http| http.cookie_name.clone()))
                .unwrap_or_else(|| "HCLBSTICKY".to_owned()),
            cookie_lifetime: self
                .cookie_lifetime
                .or(before.map(|http| http.cookie_lifetime))
                .unwrap_or(300),
            certificates: self
                .certificates
                .or(before.map(|http| http.certificates.clone()))
                .unwrap_or_default(),
            redirect_http: self
                .redirect_http
                .or(before.map(|http| http.redirect_http))
                .unwrap_or(false),
            sticky_sessions: self
                .sticky_sessions
                .or(before.map(|http| http.sticky_sessions))
                .unwrap_or(false),
            timeout_idle: self.timeout_idle.or(before.map(|http| http.timeout_idle)).unwrap_or(60),
        }
    }
}

impl CheckInput {
    fn check(
        self,
        before: Option<&HealthCheck>,
        destination_port: u16,
    ) -> Result<HealthCheck, ApiError> {
        let protocol = self
            .protocol
            .or_else(|| before.map(|check| check.protocol.clone()))
            .unwrap_or_else(|| "tcp".to_owned());
        let interval = self.interval.or(before.map(|check| check.interval)).unwrap_or(15);
        let timeout = self.timeout.or(before.map(|check| check.timeout)).unwrap_or(10);
        let retries = self.retries.or(before.map(|check| check.retries)).unwrap_or(3);
        if !(3..=60).contains(&interval)
            || !(1..=60).contains(&timeout)
            || !(1..=5).contains(&retries)
        {
            return Err(ApiError::invalid_fields(&[(
                "health_check",
                "interval is 3 to 60, timeout 1 to 60, retries 1 to 5",
            )]));
        }
        let http = match protocol.as_str() {
            "tcp" => None,
            "http" => {
                let before = before.and_then(|check| check.http.as_ref());
                Some(self.http.unwrap_or_default().check(before))
            }
            _ => {
                let message = "must be tcp or http";
                return Err(ApiError::invalid_fields(&[("health_check.protocol", message)]));
            }
        };
        let port = self.port.or(before.map(|check| check.port)).unwrap_or(destination_port);
        Ok(HealthCheck { protocol, port, interval, timeout, retries, http })
    }
}

impl HttpCheckInput {
    fn check(self, before: Option<&HttpCheck>) -> HttpCheck {
        HttpCheck {
            domain: self.domain.or(before.and_then(|http| http.domain.clone())),
            path: self
                .path
                .or(before.map(|http| http.path.clone()))
                .unwrap_or_else(|| "/".to_owned()),
            response: self
                .response
                .or(before.and_then(|http| http.response.clone()))
                .or(Some(String::new())),
            status_codes: self
                .status_codes
                .or(before.map(|http| http.status_codes.clone()))
                .unwrap_or_else(|| vec!["2??".to_owned(), "3??".to_owned()]),
            tls: self.tls.or(before.map(|http| http.tls)).unwrap_or(false),
        }
    }
}

/// Adds a service, and refuses a port that is taken and a balancer whose type takes no more services.
pub(crate) fn add(state: &mut State, id: u64, input: ServiceInput) -> Result<(), ApiError> {
    let balancer = state.load_balancers.get_mut(id)?;
    let service = input.service(None)?;
    if balancer.services.iter().any(|other| other.listen_port == service.listen_port) {
        return Err(ApiError::unprocessable(
            "source_port_already_used",
            format!("source port {} is already in use", service.listen_port),
        ));
    }
    if balancer.services.len() >= balancer.resolved_type()?.services {
        return Err(ApiError::limit_exceeded("the load balancer type takes no more services"));
    }
    balancer.services.push(service);
    Ok(())
}

/// Runs `add_service`, `update_service` and `delete_service`.
pub(crate) fn act(state: &mut State, command: &Command<'_>) -> Result<Answer, ApiError> {
    command.require_unlocked(state)?;
    let input: ServiceInput = command.input()?;
    if command.name == "add_service" {
        add(state, command.id, input)?;
    } else {
        let port = input.listen_port.ok_or_else(|| ApiError::required("listen_port"))?;
        let services = &mut state.load_balancers.get_mut(command.id)?.services;
        let mut found = services.iter_mut().filter(|service| service.listen_port == port);
        let service = found.next().ok_or_else(|| {
            ApiError::new(404, "not_found", format!("no service listens on {port}"))
        })?;
        match command.name {
            "update_service" => *service = input.service(Some(service))?,
            "delete_service" => services.retain(|service| service.listen_port != port),
            _ => return Err(command.unknown()),
        }
    }
    Ok(command.done(state))
}
