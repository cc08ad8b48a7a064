//! LFS server of a forge: tells which objects are missing, and receives them from git-lfs.
//!
//! **Invariant:** the token goes to the forge alone. Gitea copies the `Authorization` of a request into its answer
//! (`services/lfs/server.go` of v1.26.0), beside upload addresses that begin with its `ROOT_URL`, and git-lfs
//! sends the headers of an answer to whatever address stands beside them. So an answer that would have the token sent to
//! another origin is an error before git-lfs starts. Addresses at other hosts without the token are used, because
//! GitHub stores objects at S3.

use std::collections::BTreeMap;
use std::path::Path;

use ::git::{Origin as GitOrigin, Url};
use data_encoding::{BASE64, BASE64_NOPAD};
use documents::{Reason, WritePermit};
use http::{Method, Uri};
use serde_json::{Value, json};

use crate::Error;
use crate::clients::answer::Answer;
use crate::clients::git;
use crate::clients::http::{Call, Service};
use crate::model::{LfsObject, LfsObjects};
use crate::refused::{Verdict, uploads};

/// Objects of one request. git-lfs has the same limit (`defaultBatchSize` in `tq/transfer_queue.go` of v3.7.1).
const BATCH_MAX: usize = 100;
/// Path of the request, below the URL of the server.
const BATCH: &str = "/objects/batch";

/// LFS server of one repository.
pub(crate) struct LfsServer<'a> {
    service: Service,
    origin: &'a GitOrigin<'a>,
    /// Name of the document, for messages.
    document: &'a str,
}

impl<'a> LfsServer<'a> {
    /// Returns the server that belongs to the repository at `origin`.
    pub(crate) fn at(origin: &'a GitOrigin<'a>, document: &'a str) -> Result<Self, Error> {
        let root = Url::try_from(::git::endpoint(origin.url)).map_err(|_| Error::NoForge)?;
        let service = Service::of_lfs(&root, origin.token.clone())?;
        Ok(Self { service, origin, document })
    }

    /// Returns those of `objects` that the server lacks. The request is a write: Gitea assigns an object that
    /// another repository has uploaded to this one (`BatchHandler` in `services/lfs/server.go` of v1.26.0).
    /// <https://github.com/git-lfs/git-lfs/blob/v3.7.1/docs/api/batch.md>
    pub(crate) fn missing<'b>(
        &self,
        objects: &'b LfsObjects,
        _: &WritePermit,
    ) -> Result<BTreeMap<&'b str, &'b LfsObject>, Error> {
        let all: Vec<_> = objects.iter().collect();
        let mut missing = BTreeMap::new();
        for batch in all.chunks(BATCH_MAX) {
            documents::check_interrupt()?;
            let listed = batch.iter().map(|(oid, object)| json!({"oid": oid, "size": object.size}));
            let listed: Vec<_> = listed.collect();
            let body = json!({
                "operation": "upload", "transfers": ["basic"], "objects": listed, "hash_algo": "sha256",
            });
            let call = Call {
                method: &Method::POST,
                path: BATCH,
                body: Some(&body),
                document: self.document,
            };
            let answer =
                self.service.ask(call, || Ok::<_, Error>(self.origin.token.clone()), || false)?;
            let answer = accepted(answer)?;
            let told = answer.body["objects"].as_array().ok_or_else(|| answer.lacks("objects"))?;
            for (oid, object) in batch {
                let object_told = told.iter().find(|told| told["oid"].as_str() == Some(oid));
                let told = object_told.ok_or_else(|| answer.lacks(&format!("the object {oid}")))?;
                if self.is_missing(told, &object.path)? {
                    missing.insert(oid.as_str(), *object);
                }
            }
        }
        Ok(missing)
    }

    /// Whether the server lacks the object that it describes with `told`. `path` is the file's, for messages.
    fn is_missing(&self, told: &Value, path: &str) -> Result<bool, Error> {
        if let Some(code) = told["error"]["code"].as_u64() {
            let said = told["error"]["message"].as_str().unwrap_or("no reason given");
            let said = printable(said);
            return Err(refused(code, format!("{path}: {said} (status {code})")));
        }
        for action in ["upload", "verify"] {
            let action = &told["actions"][action];
            if let Some(href) = action["href"].as_str() {
                self.check_recipient(href, &action["header"])?;
            }
        }
        Ok(!told["actions"]["upload"].is_null())
    }

    /// Checks that a request to `href` with the headers `header` takes the token to no other origin, and the
    /// content to no other machine by plain HTTP.
    fn check_recipient(&self, href: &str, header: &Value) -> Result<(), Error> {
        let place = authority(href);
        if place.is_some() && place == authority(self.origin.url.as_str()) {
            return Ok(());
        }
        let host = place.as_ref().map_or("an address that is no URL", |(_, host, _)| host.as_str());
        let values = header.as_object().into_iter().flat_map(|all| all.values());
        let mut values = values.filter_map(Value::as_str).chain([href]);
        let token = self.origin.token.text().map_err(Error::Keyring)?;
        if values.any(|value| holds(value, token)) {
            let message = format!(
                "the forge names {} for the upload, and would have its token sent there",
                printable(host)
            );
            return Err(Error::UploadRefused { message, verdict: FOREIGN });
        }
        let address = href.split(['?', '#']).next().unwrap_or_default().to_owned();
        // `Url` permits plain HTTP on this machine alone.
        if Url::try_from(address).is_ok() {
            return Ok(());
        }
        let message =
            format!("the forge names {} for the upload, which is not https", printable(host));
        Err(Error::UploadRefused { message, verdict: FOREIGN })
    }

    /// Uploads the `missing` objects with git-lfs. `head` is the branch and the commit that is pushed.
    pub(crate) fn upload(
        &self,
        head: (&str, &str),
        missing: &BTreeMap<&str, &LfsObject>,
        _: &WritePermit,
    ) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        documents::check_interrupt()?;
        let files = missing.iter().map(|(oid, object)| (*oid, object.stored.as_path())).collect();
        let stop = documents::is_interrupted;
        let pushed = ::git::push_objects(Path::new("."), self.origin, head, &files, &stop);
        // An interrupted upload has lost nothing: the next run uploads the rest.
        documents::check_interrupt()?;
        let pushed = pushed.map_err(|error| git::not_run("lfs push", error))?;
        if pushed.success {
            return Ok(());
        }
        let message = without_queries(&pushed.message());
        Err(match uploads::transfer(&message) {
            Some(verdict) => Error::UploadRefused { message, verdict },
            None => Error::GitFailed { command: "lfs push".to_owned(), message },
        })
    }
}

const FOREIGN: Verdict = Verdict {
    reason: Reason::ForeignOrigin,
    help: "make the forge's own address (ROOT_URL of Gitea, PUBLIC_URL_DETECTION since 1.26) and \
           spec.endpoints.forge agree, both with https",
};

/// Returns the answer if the server has accepted the request.
fn accepted(answer: Answer) -> Result<Answer, Error> {
    match answer.status {
        200 => Ok(answer),
        401 => Err(Error::Unauthorised),
        300..=399 => answer.expect(&[200]),
        status => {
            let message = format!("{} (status {status})", answer.message());
            Err(refused(status.into(), message))
        }
    }
}

/// Returns the error for a `code`, which is a status of HTTP, with the server's message.
fn refused(code: u64, message: String) -> Error {
    match uploads::answer(code, &message) {
        Some(verdict) => Error::UploadRefused { message, verdict },
        None => Error::GitFailed { command: "lfs push".to_owned(), message },
    }
}

/// Returns the scheme, host and port of a URL.
fn authority(url: &str) -> Option<(String, String, u16)> {
    let url: Uri = url.parse().ok()?;
    let (scheme, authority) = (url.scheme_str()?, url.authority()?);
    let default = if scheme == "https" { 443 } else { 80 };
    let host = authority.host().to_ascii_lowercase();
    Some((scheme.to_owned(), host, authority.port_u16().unwrap_or(default)))
}

/// Whether `value` holds the token, as it is or in the encoding of a login.
fn holds(value: &str, token: &str) -> bool {
    let decoded = |word: &str| {
        let word = word.trim_end_matches('=').as_bytes();
        let bytes = BASE64_NOPAD.decode(word).or_else(|_| BASE64.decode(word)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(token)
    };
    value.contains(token) || value.split([' ', '=', '&', '?']).any(decoded)
}

/// Returns a message without the queries of its URLs, because the query of an upload address is a credential.
fn without_queries(message: &str) -> String {
    let word = |word: &str| match word.split_once('?') {
        Some((url, _)) if url.contains("://") => format!("{url}?…"),
        _ => word.to_owned(),
    };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn printable(text: &str) -> String {
    text.replace(char::is_control, " ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use secrets::Secret;

    use super::*;

    #[test]
    fn a_message_has_no_credential_of_an_upload_address() {
        let said = "LFS: Put \"https://s3.example.org/x?X-Amz-Signature=00\": EOF; why? unknown";
        assert_eq!(
            without_queries(said),
            "LFS: Put \"https://s3.example.org/x?… EOF; why? unknown"
        );
    }

    // hazard: An answer of the forge's LFS server has the token sent to another host.
    // class: A credential has no origin.
    // members: an old ROOT_URL, another port, http instead of https, headers and queries, `verify`
    // now: `ForeignOrigin`, exit 100, before git-lfs starts; other hosts get what the answer has for them
    #[test]
    fn answer_that_would_send_the_token_elsewhere_is_refused() {
        let url = Url::try_from("https://forge.example/o/r.git".to_owned()).expect("an address");
        let token = Secret::new(b"hunter2".to_vec());
        let origin = GitOrigin { url: &url, token: &token };
        let server = LfsServer::at(&origin, "r").expect("a server");
        let login = format!("Basic {}", BASE64.encode(b"x-access-token:hunter2"));
        let described = |action: &str, href: &str, name: &str, value: &str| {
            json!({"oid": "x", "actions": {
                "upload": {"href": "https://forge.example/x"},
                action: {"href": href, "header": {name: value}},
            }})
        };
        for (href, name, value) in [
            ("https://forge.example/o/r.git/info/lfs/objects/x", "Authorization", login.as_str()),
            ("https://FORGE.example:443/x", "Authorization", &login),
            ("https://s3.example.org/x?X-Amz-Signature=00", "Authorization", "RemoteAuth 00"),
            ("https://s3.example.org/x", "x-amz-date", "20261130T000000Z"),
            ("http://127.0.0.1:9000/x?a=b", "x", "y"),
        ] {
            for action in ["upload", "verify"] {
                let missing = server.is_missing(&described(action, href, name, value), "file");
                assert!(missing.expect(href), "{href}");
            }
        }
        for (href, name, value) in [
            ("https://other.example/x", "Authorization", login.as_str()),
            ("https://forge.example.evil.org/x", "Authorization", &login),
            ("https://forge.example:8443/x", "Authorization", &login),
            ("http://forge.example/x", "Authorization", &login),
            ("https://other.example/x", "X-Token", "hunter2"),
            ("https://other.example/x?token=hunter2", "x", "y"),
            ("https://forge.example@other.example/x", "Authorization", &login),
            ("http://other.example/x", "x", "y"),
            ("ftp://other.example/x", "x", "y"),
            ("/relative", "x", "y"),
        ] {
            for action in ["upload", "verify"] {
                let told = described(action, href, name, value);
                let error = server.is_missing(&told, "file").expect_err(href);
                let Error::UploadRefused { message, verdict } = error else { panic!("{href}") };
                assert_eq!(verdict.reason, Reason::ForeignOrigin, "{href}");
                assert!(!message.contains("hunter2"), "{message}");
            }
        }
    }
}
