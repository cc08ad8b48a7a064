//! HTTP: token, rate, faults, headers; then a call like any other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, header};
use axum::routing::{get, post};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Cloud;
use crate::call::{Answer, Call};
use crate::error::Refusal;
use crate::fault::Fault;
use crate::routes;

/// The largest body that is read. User data of 32 KiB fits, however it is escaped.
const BODY_BYTES: usize = 1 << 20;

type Shared = State<Arc<Cloud>>;

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    let faults = post(add_faults).delete(clear_faults).get(list_faults);
    Router::new()
        .route("/_lab", get(about))
        .route("/_lab/writes", get(writes))
        .route("/_lab/faults", faults)
        .fallback(api)
        .with_state(cloud)
}

async fn about(State(cloud): Shared) -> Response<Body> {
    json_response(
        200,
        &json!({"endpoint": format!("http://{}/v1", cloud.settings.address), "writes": cloud.writes()}),
    )
}

async fn writes(State(cloud): Shared) -> Response<Body> {
    json_response(200, &json!({"writes": cloud.writes()}))
}

async fn list_faults(State(cloud): Shared) -> Response<Body> {
    let faults = cloud.faults.lock().unwrap_or_else(PoisonError::into_inner);
    json_response(200, &json!({"faults": faults.list()}))
}

async fn clear_faults(State(cloud): Shared) -> Response<Body> {
    cloud.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    list_faults(State(cloud)).await
}

async fn add_faults(State(cloud): Shared, body: axum::body::Bytes) -> Response<Body> {
    match serde_json::from_slice::<Vec<Fault>>(&body) {
        Ok(faults) => {
            cloud.faults.lock().unwrap_or_else(PoisonError::into_inner).add(faults);
            list_faults(State(cloud)).await
        }
        Err(error) => {
            json_response(422, &json!({"error": format!("not a list of faults: {error}")}))
        }
    }
}

async fn api(State(cloud): Shared, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let outcome = match to_bytes(body, BODY_BYTES).await {
        Ok(body) => cloud.answer(
            &head.method,
            head.uri.path(),
            head.uri.query().unwrap_or(""),
            &head.headers,
            body.to_vec(),
        ),
        Err(_) => Err(Refusal::new(413, "invalid_input", "the request body is too large")),
    };
    let (status, body) = match outcome {
        Ok(Answer { status, body }) => (status, body),
        Err(refusal) => (refusal.status, Some(refusal.body())),
    };
    let mut response = match body {
        Some(body) => json_response(status, &body),
        None => respond(status, Body::empty()),
    };
    cloud.add_headers(response.headers_mut());
    response
}

impl Cloud {
    fn answer(
        self: &Arc<Self>,
        method: &Method,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        body: Vec<u8>,
    ) -> Result<Answer, Refusal> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|it| it.to_str().ok())
            .and_then(|it| it.strip_prefix("Bearer "));
        let reads = bearer.is_some() && bearer == self.settings.read_token.as_deref();
        if !reads && bearer != Some(self.settings.token.as_str()) {
            return Err(Refusal::new(401, "unauthorized", "unable to authenticate"));
        }
        if reads && method != Method::GET {
            // https://docs.hetzner.cloud/reference/cloud#errors, code `token_readonly`
            let message = "the token is only allowed to perform GET requests";
            return Err(Refusal::new(403, "token_readonly", message));
        }
        if !self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            return Err(Refusal::new(
                429,
                "rate_limit_exceeded",
                "limit of 3600 requests per hour reached"
                    .replace("3600", &self.pace.calls_per_hour.to_string()),
            ));
        }
        let Some(path) = path.strip_prefix("/v1/") else {
            return Err(Refusal::new(404, "not_found", "the API is below /v1"));
        };
        let call = Call {
            method: method.as_str().to_owned(),
            path: path.split('/').map(decoded).collect(),
            query: query
                .split('&')
                .filter(|it| !it.is_empty())
                .map(|it| it.split_once('=').unwrap_or((it, "")))
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
            body,
        };
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner).meet(&call);
        let refusal = fault.as_ref().and_then(Fault::refusal);
        if let (Some(refusal), Some(false)) = (&refusal, fault.as_ref().map(Fault::after_effect)) {
            return Err(refusal.clone());
        }
        let answer = if *method == Method::GET {
            routes::read(&self.state(), &call)
        } else {
            let done = self.write(&call, fault.as_ref());
            if done.is_ok() {
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            done
        }?;
        refusal.map_or(Ok(answer), Err)
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        let rate = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).rate();
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().floor();
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let digest = Sha256::digest(format!("{call} {now}"));
        let correlation = HEXLOWER.encode(digest.get(..16).unwrap_or_default());
        let numbers = [
            ("ratelimit-limit", rate.limit),
            ("ratelimit-remaining", rate.remaining),
            ("ratelimit-reset", now + rate.full_in_seconds),
        ];
        let texts = numbers
            .map(|(name, number)| (name, format!("{number:.0}")))
            .into_iter()
            .chain([("x-correlation-id", correlation)]);
        for (name, text) in texts {
            if let Ok(value) = text.parse() {
                headers.insert(name, value);
            }
        }
    }
}

/// `%41` and `+`, as in a query. What is not UTF-8 is matched by nothing.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|it| std::str::from_utf8(it).ok())
            .and_then(|it| u8::from_str_radix(it, 16).ok());
        (rest, bytes) = match (first, hex) {
            (b'%', Some(byte)) => (tail.get(2..).unwrap_or_default(), push(bytes, byte)),
            (b'+', _) => (tail, push(bytes, b' ')),
            (byte, _) => (tail, push(bytes, *byte)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn push(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

fn json_response(status: u16, body: &Value) -> Response<Body> {
    let mut response = respond(status, Body::from(body.to_string()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn respond(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    if let Ok(status) = status.try_into() {
        *response.status_mut() = status;
    }
    response
}
