//! HTTP: the listener, the checks of token and rate limit, faults, and headers.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, header};
use axum::routing::{get, post, put};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

use crate::call::{Answer, Call};
use crate::catalogue::SoldOut;
use crate::cloud::Cloud;
use crate::error::ApiError;
use crate::fault::Fault;
use crate::routes;

/// The largest request body. User data of 32 KiB fits even if JSON escapes every byte as `\u00xx`.
const BODY_BYTES: usize = 1 << 20;

type Shared = State<Arc<Cloud>>;

impl Cloud {
    /// Serves the API until the future is dropped. The load balancers listen for as long.
    ///
    /// # Errors
    ///
    /// The listener cannot accept connections any more.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let _until_dropped = EndTasks(Arc::clone(&self));
        self.balance();
        self.resume();
        axum::serve(listener, router(Arc::clone(&self))).await
    }
}

/// Ends the tasks of a cloud when the future that serves the cloud is dropped.
struct EndTasks(Arc<Cloud>);

impl Drop for EndTasks {
    fn drop(&mut self) {
        self.0.tasks.end();
    }
}

fn router(cloud: Arc<Cloud>) -> Router {
    let faults = post(add_faults).delete(clear_faults).get(list_faults);
    Router::new()
        .route("/_lab", get(about))
        .route("/_lab/writes", get(writes))
        .route("/_lab/faults", faults)
        .route("/_lab/sold_out", put(sell_out))
        .route("/_lab/calls", get(calls))
        .route("/_lab/journal", get(journal))
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

/// Answers with the number of calls of clients that the rate limit counts.
async fn calls(State(cloud): Shared) -> Response<Body> {
    json_response(200, &json!({"calls": cloud.calls()}))
}

/// Answers with the last calls of clients and their answers.
async fn journal(State(cloud): Shared) -> Response<Body> {
    json_response(200, &json!({"journal": cloud.journal()}))
}

/// Replaces the list of server types that are sold out, each with a location.
async fn sell_out(State(cloud): Shared, body: axum::body::Bytes) -> Response<Body> {
    match serde_json::from_slice::<SoldOut>(&body) {
        Ok(sold_out) => {
            let mut state = cloud.state();
            state.sold_out = sold_out;
            json_response(200, &json!({"sold_out": state.sold_out}))
        }
        Err(error) => json_response(422, &json!({"error": error.to_string()})),
    }
}

async fn list_faults(State(cloud): Shared) -> Response<Body> {
    json_response(200, &json!({"faults": cloud.faults().list()}))
}

async fn clear_faults(State(cloud): Shared) -> Response<Body> {
    cloud.faults().clear();
    list_faults(State(cloud)).await
}

async fn add_faults(State(cloud): Shared, body: axum::body::Bytes) -> Response<Body> {
    match serde_json::from_slice::<Vec<Fault>>(&body) {
        Ok(faults) => {
            cloud.faults().add(faults);
            list_faults(State(cloud)).await
        }
        Err(error) => {
            json_response(422, &json!({"error": format!("not a list of faults: {error}")}))
        }
    }
}

async fn api(State(cloud): Shared, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut sent = Value::Null;
    let outcome = match to_bytes(body, BODY_BYTES).await {
        Ok(body) => {
            sent = serde_json::from_slice(&body).unwrap_or_default();
            cloud.answer(
                &head.method,
                head.uri.path(),
                head.uri.query().unwrap_or(""),
                &head.headers,
                body.to_vec(),
            )
        }
        Err(_) => Err(ApiError::new(413, "invalid_input", "the request body is too large")),
    };
    let (status, body) = match outcome {
        Ok(Answer { status, body }) => (status, body),
        Err(error) => (error.status, Some(error.body())),
    };
    let agent = head.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    cloud.record(json!({
        "agent": agent, "method": head.method.as_str(), "path": head.uri.path(), "query": head.uri.query(),
        "body": sent, "status": status, "answer": body,
    }));
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
    ) -> Result<Answer, ApiError> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let is_reader = bearer.is_some() && bearer == self.settings.read_token.as_deref();
        if !is_reader && bearer != Some(self.settings.token.as_str()) {
            return Err(ApiError::new(401, "unauthorized", "unable to authenticate"));
        }
        if is_reader && method != Method::GET {
            // https://docs.hetzner.cloud/reference/cloud#errors, code `token_readonly`
            let message = "the token is only allowed to perform GET requests";
            return Err(ApiError::new(403, "token_readonly", message));
        }
        if !self.bucket().take(Instant::now()) {
            return Err(ApiError::new(
                429,
                "rate_limit_exceeded",
                format!("limit of {} requests per hour reached", self.pace.calls_per_hour),
            ));
        }
        let Some(path) = path.strip_prefix("/v1/") else {
            return Err(ApiError::new(404, "not_found", "the API is below /v1"));
        };
        let call = Call {
            method: method.as_str().to_owned(),
            path: path.split('/').map(decoded).collect(),
            query: query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decoded(name), decoded(value)))
                .collect(),
            body,
        };
        let fault = self.faults().take(&call);
        let error = fault.as_ref().and_then(Fault::error);
        if let (Some(error), Some(false)) = (&error, fault.as_ref().map(Fault::after_effect)) {
            return Err(error.clone());
        }
        let answer = if *method == Method::GET {
            routes::read(&self.state(), &call)
        } else {
            let written = self.write(&call, fault.as_ref());
            if written.is_ok() {
                self.count_write();
            }
            written
        }?;
        error.map_or(Ok(answer), Err)
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        let rate = self.bucket().rate();
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().floor();
        let call = self.count_call();
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

/// Decodes `%41` and `+` of a query. Bytes that are not UTF-8 become replacement characters, which no name
/// contains.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
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
