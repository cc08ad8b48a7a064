//! Accounts and Apps of the mock of GitHub: users, organisations, installations and their tokens.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use testing::http::Request;

use super::github::State;
use super::http::{Answer, page};
use super::openapi::{OpenApi, overlay};

/// Client ID of the only App.
pub(crate) const CLIENT_ID: &str = "Iv23liExample";

/// Private key of the App, created for these tests with `openssl genrsa -traditional 2048`.
pub(crate) const KEY: &str = include_str!("test-app-key.pem");

/// Longest validity of a statement, in seconds.
const STATEMENT_SECONDS_MAX: u64 = 600;

/// Accounts and Apps.
pub(crate) struct Apps {
    /// Whether every token belongs to an installation of an App instead of the user `owner`.
    pub(crate) installation: bool,
    /// `all` or `selected` repositories.
    pub(crate) selection: &'static str,
    /// Whether `owner` is an organisation.
    pub(crate) organisation: bool,
    /// Whether the App is installed at `owner`.
    pub(crate) installed: bool,
    /// Number of tokens that were issued.
    pub(crate) issued: usize,
    /// Number of requests after which a token of the App ends, once.
    pub(crate) ends_after: Option<usize>,
}

impl Default for Apps {
    fn default() -> Self {
        let (installation, organisation, installed) = (false, false, true);
        Self {
            installation,
            selection: "all",
            organisation,
            installed,
            issued: 0,
            ends_after: None,
        }
    }
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl State {
    /// Returns the rejection of a request without a valid credential.
    pub(crate) fn rejection(&mut self, request: &Request) -> Option<Answer> {
        let header = request.headers.get("authorization").map_or("", String::as_str);
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        let by_app = request.path.starts_with("/app/") || request.path.ends_with("/installation");
        if let Some(left) = &mut self.apps.ends_after
            && !by_app
        {
            if *left > 0 {
                *left -= 1;
            } else {
                (self.apps.ends_after, self.tokens) = (None, Vec::new());
            }
        }
        let is_valid = if by_app {
            is_statement(token)
        } else {
            self.tokens.iter().any(|known| known == token)
        };
        (!is_valid).then(|| (401, json!({"message": "Bad credentials"}), Vec::new()))
    }

    /// Answers requests about accounts and Apps.
    pub(crate) fn act_on_accounts(
        &mut self,
        request: &Request,
        body: &Value,
        operation: &str,
        openapi: &OpenApi,
        address: SocketAddr,
        folder: &Path,
    ) -> Option<Answer> {
        let plain = |status, body| Some((status, body, Vec::new()));
        let name = request.path.split('/').nth(2).unwrap_or_default().to_owned();
        let forbidden = || json!({"message": "Resource not accessible by integration"});
        match operation {
            "GET /user" | "GET /user/repos" | "POST /user/repos" if self.apps.installation => {
                plain(403, forbidden())
            }
            "GET /installation/repositories" if !self.apps.installation => plain(403, forbidden()),
            "GET /installation/repositories" => {
                let mut seen: Vec<_> =
                    self.repository.iter().filter(|_| !self.hides_repository).cloned().collect();
                if self.apps.selection == "all" && seen.is_empty() {
                    seen.push(json!({"name": "other", "owner": {"login": "owner"}}));
                }
                plain(
                    200,
                    json!({"total_count": seen.len(), "repositories": seen, "repository_selection": self.apps.selection}),
                )
            }
            "GET /users/{username}" => {
                let kind = if self.apps.organisation { "Organization" } else { "User" };
                let ours = json!({"login": name, "type": kind});
                if name == "missing-account" {
                    return plain(404, json!({"message": "Not Found"}));
                }
                plain(200, overlay(&openapi.example(operation), &ours))
            }
            "GET /orgs/{org}/installation" | "GET /users/{username}/installation" => {
                let fits = operation.starts_with("GET /orgs") == self.apps.organisation;
                if !(fits && self.apps.installed && name == "owner") {
                    return plain(404, json!({"message": "Not Found"}));
                }
                plain(200, overlay(&openapi.example(operation), &json!({"id": 77})))
            }
            "POST /app/installations/{installation_id}/access_tokens" => {
                self.apps.issued += 1;
                let token = format!("ghs_{}", self.apps.issued);
                self.tokens = vec![token.clone()];
                plain(201, overlay(&openapi.example(operation), &json!({"token": token})))
            }
            "GET /user" => {
                let count = usize::from(self.repository.is_some()) + self.unseen;
                let ours =
                    json!({"login": "owner", "public_repos": 0, "owned_private_repos": count});
                let scopes = self.scopes.map(|scopes| ("X-OAuth-Scopes", scopes.to_owned()));
                let answer = overlay(&openapi.example(operation), &ours);
                Some((200, answer, scopes.into_iter().collect()))
            }
            "GET /user/repos" => {
                let seen = self.repository.iter().filter(|_| !self.hides_repository);
                let seen: Vec<_> = seen.cloned().collect();
                Some(page(request, &self.next, &seen, |items| json!(items)))
            }
            "GET /user/memberships/orgs/{org}" => plain(404, json!({"message": "Not Found"})),
            "POST /user/repos" | "POST /orgs/{org}/repos" => {
                let example = openapi.example(operation);
                let (status, answer) = self.create(body, &example, address, folder);
                plain(status, answer)
            }
            _ => None,
        }
    }

    /// Creates the repository, as a forge does.
    fn create(
        &mut self,
        body: &Value,
        example: &Value,
        address: SocketAddr,
        folder: &Path,
    ) -> (u16, Value) {
        if self.repository.is_some() {
            let error = json!({"resource": "Repository", "code": "custom", "field": "name", "message": "name already exists on this account"});
            let answer = json!({"message": "Repository creation failed.", "errors": [error]});
            return (422, answer);
        }
        let (name, branch) = (body["name"].as_str().unwrap_or_default(), self.default_branch);
        let made = Command::new("git")
            .args(["init", "--quiet", "--bare", "--initial-branch", branch])
            .arg(folder.join("owner").join(format!("{name}.git")))
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        let ours = json!({
            "name": name, "full_name": format!("owner/{name}"), "owner": {"login": "owner"},
            "description": null, "homepage": null, "private": true, "has_issues": true,
            "has_wiki": true, "has_projects": true, "has_discussions": false, "archived": false,
            "topics": [], "default_branch": branch,
            "clone_url": format!("http://{address}/owner/{name}.git"),
            "html_url": format!("http://{address}/owner/{name}"), "permissions": {"admin": true},
        });
        self.repository = Some(overlay(&overlay(example, &ours), body));
        (201, json!(self.repository))
    }
}

/// Moves the history of a repository whose name has changed, or that gets another `owner`. Returns its
/// former name.
pub(crate) fn moved(
    repository: &mut Value,
    owner: &str,
    address: SocketAddr,
    folder: &Path,
) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (old, name) = (text(&repository["full_name"]), text(&repository["name"]));
    let new = format!("{owner}/{name}");
    if old == new {
        return None;
    }
    let _ = fs::create_dir_all(folder.join(owner));
    let history = |name: &str| folder.join(format!("{name}.git"));
    fs::rename(history(&old), history(&new)).expect("a history");
    repository["owner"]["login"] = owner.into();
    repository["clone_url"] = format!("http://{address}/{new}.git").into();
    repository["full_name"] = new.into();
    old.split('/').next_back().map(str::to_owned)
}

/// Whether `token` is a statement that GitHub accepts: signed by the App, and valid for ten minutes at most.
fn is_statement(token: &str) -> bool {
    let Some((text, signature)) = token.rsplit_once('.') else { return false };
    let Ok(signature) = BASE64URL_NOPAD.decode(signature.as_bytes()) else { return false };
    let body: String = KEY.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = BASE64.decode(body.as_bytes()).expect("base64");
    let pair = RsaKeyPair::from_der(&der).expect("an RSA key");
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key());
    if public.verify(text.as_bytes(), &signature).is_err() {
        return false;
    }
    let parts: Vec<Value> = text
        .split('.')
        .filter_map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).ok())
        .filter_map(|part| serde_json::from_slice(&part).ok())
        .collect();
    let [head, claims] = parts.as_slice() else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (begin, end) =
        (claims["iat"].as_u64().unwrap_or(u64::MAX), claims["exp"].as_u64().unwrap_or_default());
    head["alg"] == "RS256"
        && claims["iss"] == CLIENT_ID
        && begin <= now
        && end > now
        && end - now <= STATEMENT_SECONDS_MAX
}
