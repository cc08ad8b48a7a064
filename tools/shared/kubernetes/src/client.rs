//! Requests to the API server: one deadline, one way to repeat, one way to report.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::request::{Change, Exchange, Repeat, Request};
use crate::response::{self, Failure};
use crate::{Error, Kubeconfig};

/// Longest time during which one request is repeated. It covers the restart of an API server that has
/// replicas, and is short enough for a person who waits for an error.
const REPEAT_MAX: Duration = Duration::from_secs(10);
/// First pause before a repetition; each further pause is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest pause before a repetition, unless the API server names a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time after which a repetition is reported to people, as for any other wait.
const SILENT_MAX: Duration = Duration::from_secs(2);
/// Largest answer in bytes: a page of 500 objects of 512 KiB, the size of a large object.
const ANSWER_BYTES_MAX: usize = 500 * 512 * 1024;

/// Properties of a program's requests.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Name under which the API server records the program's fields (`fieldManager`).
    pub manager: &'static str,
    /// Time for one request, from the connection to the end of the answer.
    pub deadline: Duration,
}

/// A connection to one API server.
#[derive(Clone)]
pub(crate) struct Client {
    runtime: Arc<Runtime>,
    http: kube::Client,
    kubeconfig: Kubeconfig,
    settings: Settings,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.kubeconfig)
    }
}

impl Client {
    pub(crate) fn open(kubeconfig: &Kubeconfig, settings: Settings) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::Runtime)?;
        let http = runtime.block_on(async {
            kube::Client::try_from(kubeconfig.config.clone())
                .map_err(|_| Error::Kubeconfig { why: "its certificates or keys are invalid" })
        })?;
        let kubeconfig = kubeconfig.clone();
        Ok(Self { runtime: Arc::new(runtime), http, kubeconfig, settings })
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    pub(crate) fn http(&self) -> &kube::Client {
        &self.http
    }

    /// Returns the longest time of one request.
    pub(crate) fn deadline(&self) -> Duration {
        self.settings.deadline
    }

    /// Returns an object or a list; `None` if it does not exist.
    pub(crate) fn get(&self, request: &Request) -> Result<Option<Value>, Error> {
        match self.exchange(&request.exchange).and_then(|text| parse(&request.exchange, &text)) {
            Err(Error::NotFound { .. }) => Ok(None),
            Err(Error::NotServed { .. }) if request.is_optional => Ok(None),
            end => end.map(Some),
        }
    }

    pub(crate) fn change(&self, change: &Change) -> Result<Value, Error> {
        let exchange = self.managed(&change.0);
        self.exchange(&exchange).and_then(|text| parse(&exchange, &text))
    }

    pub(crate) fn dry_run(&self, change: &Change) -> Result<Value, Error> {
        let exchange = self.managed(&change.0).as_dry_run();
        self.exchange(&exchange).and_then(|text| parse(&exchange, &text))
    }

    /// Adds the name of the program. A deletion has no manager.
    fn managed(&self, exchange: &Exchange) -> Exchange {
        if exchange.method == http::Method::DELETE {
            return exchange.clone();
        }
        exchange.with(&format!("fieldManager={}", self.settings.manager))
    }

    /// Sends a request and returns the text of its answer. Repeats the request within [`REPEAT_MAX`]
    /// where that is safe and can help.
    pub(crate) fn exchange(&self, exchange: &Exchange) -> Result<Vec<u8>, Error> {
        let (began, mut pause) = (Instant::now(), PAUSE_MIN);
        let mut is_reported = false;
        loop {
            documents::detail("-", format_args!("{} {}", exchange.method, exchange.path));
            let error = match self.attempt(exchange) {
                Ok(text) => return Ok(text),
                Err(error) => error,
            };
            let wait = error.retry_after().unwrap_or(pause);
            if !self.may_repeat(exchange.repeat, &error) || began.elapsed() + wait > REPEAT_MAX {
                return Err(error);
            }
            if began.elapsed() + wait >= SILENT_MAX && !is_reported {
                documents::note("-", format_args!("{error}: repeating"));
                is_reported = true;
            }
            let milliseconds = wait.as_millis();
            documents::detail("-", format_args!("{error}: repeating in {milliseconds} ms"));
            if documents::pause(wait).is_err() {
                return Err(error);
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether a request may be sent again after `error`.
    fn may_repeat(&self, repeat: Repeat, error: &Error) -> bool {
        let least = match error {
            Error::RateLimited { .. } => Repeat::Unprocessed,
            Error::Busy { .. } => Repeat::Idempotent,
            // A server that has never answered may have another address.
            Error::Unreachable { was_sent, .. } if self.has_answered() => {
                // The engine observes before it repeats a write that may have arrived.
                if *was_sent { Repeat::Read } else { Repeat::Unprocessed }
            }
            Error::TimedOut { .. } if self.has_answered() => Repeat::Read,
            _ => return false,
        };
        repeat >= least
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.kubeconfig.has_answered.load(Ordering::Relaxed)
    }

    fn attempt(&self, exchange: &Exchange) -> Result<Vec<u8>, Error> {
        let request = || exchange.name.clone();
        let sent = http::Request::builder().method(&exchange.method).uri(&exchange.path);
        let sent = sent.header("content-type", exchange.content).header("accept", exchange.accept);
        let sent = sent.body(Body::from(exchange.body.clone())).map_err(|_| Error::Invalid {
            request: request(),
            message: "its path is no URL".to_owned(),
        })?;
        let (code, retry_after, body) = self.timed(&exchange.name, async {
            let answer = self.http.send(sent).await?;
            let retry_after = answer.headers().get(RETRY_AFTER);
            let retry_after = retry_after.and_then(|text| text.to_str().ok()?.parse().ok());
            let code = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((code, retry_after, body.map_err(kube::Error::Service)?.to_bytes()))
        })?;
        if (200..=299).contains(&code) {
            return Ok(body.to_vec());
        }
        let failure = Failure { code, body: &body, retry_after };
        Err(response::error(exchange, &failure, |text| self.clean(text)))
    }

    /// Makes a request with kube's own API.
    pub(crate) fn call<T>(
        &self,
        name: &str,
        request: impl AsyncFnOnce(kube::Client) -> kube::Result<T>,
    ) -> Result<T, Error> {
        documents::detail("-", name);
        self.timed(name, request(self.http.clone()))
    }

    /// Waits for `answer` until the deadline.
    fn timed<T>(
        &self,
        name: &str,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        let deadline = self.settings.deadline;
        let timed = async { tokio::time::timeout(deadline, answer).await };
        let Ok(end) = self.runtime.block_on(timed) else {
            let seconds = deadline.as_secs();
            return Err(Error::TimedOut { request: name.to_owned(), seconds });
        };
        if matches!(end, Ok(_) | Err(kube::Error::Api(_))) {
            self.kubeconfig.has_answered.store(true, Ordering::Relaxed);
        }
        end.map_err(|error| match error {
            kube::Error::Api(status) => {
                let body = serde_json::to_vec(&status).unwrap_or_default();
                let failure = Failure { code: status.code, body: &body, retry_after: None };
                let exchange = Request::get("").named(name).exchange;
                response::error(&exchange, &failure, |text| self.clean(text))
            }
            error => response::no_answer(name, &error, |text| self.clean(text)),
        })
    }

    /// Removes the credentials from a text.
    pub(crate) fn clean(&self, text: &str) -> String {
        self.kubeconfig.redactor.clean(text)
    }
}

/// Returns the answer as JSON. Every answer of an API server is an object. Anything else comes from
/// another server, for example from a proxy.
fn parse(exchange: &Exchange, text: &[u8]) -> Result<Value, Error> {
    let object = serde_json::from_slice(text).ok().filter(is_object_of_an_api);
    object.ok_or_else(|| Error::InvalidResponse {
        request: exchange.name.clone(),
        why: "it is no object of the Kubernetes API".to_owned(),
    })
}

/// Whether `value` has the form of an object, a list or a `Status`.
pub(crate) fn is_object_of_an_api(value: &Value) -> bool {
    value.is_object() && (value["metadata"].is_object() || value["metadata"].is_null())
}

#[cfg(test)]
mod tests;
