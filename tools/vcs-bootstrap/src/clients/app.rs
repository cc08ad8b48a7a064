//! GitHub Apps: a signed statement of the App is exchanged for a token of its installation.
//!
//! <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app>
//!
//! **Invariant:** the App's key leaves this module only as signatures.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::Method;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use secrets::Secret;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::Error;
use crate::clients::answer::Answer;

/// Age at which a token of an installation is replaced. It is valid for one hour, and one push may take
/// several minutes.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(50 * 60);
/// Time before now at which a statement begins, because clocks differ (recommended by GitHub).
const CLOCK_SECONDS: u64 = 60;
/// Time after now at which a statement ends; GitHub permits 600 seconds.
const STATEMENT_SECONDS: u64 = 540;

/// App with its key, and the tokens of its installations.
pub(crate) struct App {
    client_id: String,
    key: RsaKeyPair,
    /// Tokens by owner, each with its time of creation.
    tokens: Mutex<BTreeMap<String, (Secret, Instant)>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "App({})", self.client_id)
    }
}

impl App {
    /// Reads the App's private key in PEM.
    pub(crate) fn new(client_id: &str, pem: &Secret) -> Result<Self, Error> {
        let key = key(pem).ok_or_else(|| Error::TokenUnusable {
            why: "the App's key is no RSA private key in PEM".to_owned(),
        })?;
        Ok(Self { client_id: client_id.to_owned(), key, tokens: Mutex::default() })
    }

    /// Forgets the token for `owner` that the forge has `rejected`, unless a parallel request has renewed it.
    pub(crate) fn forget(&self, owner: &str, rejected: &Secret) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.get(owner).is_some_and(|(token, _)| token.expose() == rejected.expose()) {
            tokens.remove(owner);
        }
    }

    /// Returns a token of the App's installation at `owner`, from this run or a new one. `send` sends a
    /// request with [`Self::statement`].
    pub(crate) fn token(
        &self,
        owner: &str,
        send: impl Fn(&Method, &str, Option<&Value>) -> Result<Answer, Error>,
    ) -> Result<Secret, Error> {
        // The lock is held during the exchange, so that parallel documents share one token.
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, created)) = tokens.get(owner)
            && created.elapsed() < TOKEN_AGE_MAX
        {
            return Ok(token.clone());
        }
        let ask = |method: &Method, path: &str, body: Option<&Value>| {
            let answer = send(method, path, body)?;
            if answer.status == 401 { Err(self.rejected(&answer)) } else { Ok(answer) }
        };
        // An owner is an organisation or a user, and each has a path of its own.
        let mut found = ask(&Method::GET, &format!("/orgs/{owner}/installation"), None)?;
        if found.status == 404 {
            found = ask(&Method::GET, &format!("/users/{owner}/installation"), None)?;
        }
        if found.status == 404 {
            let (client_id, owner) = (self.client_id.clone(), owner.to_owned());
            return Err(Error::NotInstalled { client_id, owner });
        }
        let found = found.expect(&[200])?;
        let id = found.body["id"].as_u64().ok_or_else(|| found.lacks("id"))?;
        let path = format!("/app/installations/{id}/access_tokens");
        let answer = ask(&Method::POST, &path, Some(&json!({})))?.expect(&[201])?;
        let token = answer.body["token"].as_str().ok_or_else(|| answer.lacks("token"))?;
        let token = Secret::new(token.as_bytes().to_vec());
        tokens.insert(owner.to_owned(), (token.clone(), Instant::now()));
        Ok(token)
    }

    fn rejected(&self, answer: &Answer) -> Error {
        Error::AppRejected { client_id: self.client_id.clone(), message: answer.message() }
    }

    /// Returns a JSON Web Token (RFC 7519) with which the App proves that it has its key.
    pub(crate) fn statement(&self) -> Result<Secret, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "iat": now.saturating_sub(CLOCK_SECONDS),
            "exp": now + STATEMENT_SECONDS,
            "iss": self.client_id,
        });
        let part = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let text = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = SystemRandom::new();
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature);
        signed.map_err(|_| Error::TokenUnusable {
            why: "the App's key cannot sign, because no random numbers are available".to_owned(),
        })?;
        Ok(Secret::new(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)).into_bytes()))
    }
}

/// Reads an RSA key in PEM: PKCS #1 (RFC 8017), which GitHub generates, or PKCS #8 (RFC 5958).
fn key(pem: &Secret) -> Option<RsaKeyPair> {
    let text = pem.text().ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: Zeroizing<String> =
        Zeroizing::new(body.chars().filter(|letter| !letter.is_whitespace()).collect());
    let der = Zeroizing::new(BASE64.decode(body.as_bytes()).ok()?);
    match label {
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der).ok(),
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der).ok(),
        _ => None,
    }
}
