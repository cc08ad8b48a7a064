//! Uploads that break off, and registries that answer them unusually.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::json;

use crate::registries::{WITH_TOKEN, lock, quirky};
use crate::stub::{Answer, Registry, Request, Sandbox, Test, error, serve, text};

/// Faults of an upload, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The connection breaks in the middle, and the registry tells how much has arrived.
    CutKnown,
    /// The connection breaks in the middle, and the registry has forgotten the upload.
    CutForgotten,
    /// The registry stores the blob, and a proxy answers 502.
    Committed,
    /// The token has expired.
    Expired,
    /// A rate limit, with a number of seconds.
    Seconds,
    /// A rate limit, with a date.
    Date,
    /// The registry acknowledges with 202, and stores the blob.
    Accepted,
}

/// Answers uploads of large blobs: `None` leaves the answer to the registry, `Some(None)` closes the connection.
#[expect(clippy::option_option, reason = "this is the type of the stub's interceptors")]
fn faulty(
    fault: Fault,
    registry: &Registry,
    request: &Request,
    kept: &Mutex<(usize, Vec<u8>)>,
) -> Option<Option<Answer>> {
    let is_upload = request.path.contains("/blobs/uploads/");
    let store = |bytes: &[u8]| {
        registry.with(|all| all.blobs.insert(crate::stub::digest(bytes), bytes.to_vec()));
    };
    let here = "/v2/test/shared/blobs/uploads/1?state=y";
    let mut kept = lock(kept);
    match request.method.as_str() {
        "PUT" if is_upload && request.body.len() > 10_000 => {
            kept.0 += 1;
            if kept.0 > 1 {
                return None;
            }
            match fault {
                Fault::CutKnown | Fault::CutForgotten => {
                    kept.1 = request.body[..request.body.len() / 2].to_vec();
                    Some(None)
                }
                Fault::Committed => {
                    store(&request.body);
                    Some(Some(Answer::new(502, "")))
                }
                Fault::Expired => {
                    Some(Some(Answer::new(401, "").with("WWW-Authenticate", "Basic")))
                }
                Fault::Seconds => Some(Some(Answer::new(429, "").with("Retry-After", "1"))),
                Fault::Date => {
                    let past = "Wed, 21 Oct 2015 07:28:00 GMT";
                    Some(Some(Answer::new(429, "").with("Retry-After", past)))
                }
                Fault::Accepted => {
                    store(&request.body);
                    Some(Some(Answer::new(202, "")))
                }
            }
        }
        "GET" if is_upload && fault == Fault::CutKnown => {
            let range = format!("0-{}", kept.1.len() - 1);
            Some(Some(Answer::new(204, "").with("Location", here).with("Range", range)))
        }
        "PATCH" if is_upload => {
            let from = kept.1.len();
            let range = format!("{from}-{}", from + request.body.len() - 1);
            if request.header("content-range") != range {
                return Some(Some(error(416, "BLOB_UPLOAD_INVALID", "out of order")));
            }
            kept.1.extend_from_slice(&request.body);
            Some(Some(Answer::new(202, "").with("Location", here)))
        }
        "PUT" if is_upload && request.body.is_empty() => {
            store(&kept.1);
            Some(Some(Answer::new(201, "")))
        }
        _ => None,
    }
}

// hazard: An upload of ten minutes begins again after every broken connection.
// class: A fault in the middle of a write costs the whole write.
// members: cuts, lost responses, expired tokens, rate limits in both forms, unusual acknowledgements
// now: an upload continues where it broke off if the registry can tell; otherwise it begins again
#[test]
fn an_upload_survives_every_fault_in_the_middle_of_it() -> Test {
    for fault in [
        Fault::CutKnown,
        Fault::CutForgotten,
        Fault::Committed,
        Fault::Expired,
        Fault::Seconds,
        Fault::Date,
        Fault::Accepted,
    ] {
        let (registry, kept) = (Registry::default(), Mutex::default());
        let shared = registry.clone();
        let server = serve(move |request| {
            faulty(fault, &shared, request, &kept).unwrap_or_else(|| Some(shared.answer(request)))
        })?;
        let sandbox = Sandbox::new(&server.address)?;
        sandbox.write("a/large.yaml", format!("kind: ConfigMap\ndata: {{a: {}}}\n", noise()))?;
        sandbox.commit("a large file")?;
        let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
        let applied = sandbox.expect(0, "apply", &input)?;
        let is_upload = |request: &&Request| {
            request.body.len() > 10_000 && request.path.contains("/blobs/uploads/")
        };
        let sent: Vec<_> =
            server.take().iter().filter(is_upload).map(|request| request.body.len()).collect();
        let again: usize = sent[1..].iter().sum();
        match fault {
            Fault::CutKnown => assert!(again * 100 <= sent[0] * 55, "{sent:?}"),
            Fault::Committed | Fault::Accepted => assert_eq!(again, 0, "it is stored: {sent:?}"),
            _ => assert_eq!(again, sent[0], "{fault:?}"),
        }
        sandbox.expect(0, "verify", &text(&applied))?;
    }
    Ok(())
}

#[test]
fn an_upload_that_is_acknowledged_and_not_stored_is_an_error() -> Test {
    let server = quirky(&Registry::default(), |request| {
        let is_upload = request.path.contains("/blobs/uploads/") && request.method == "PUT";
        is_upload.then(|| Answer::new(202, ""))
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let run = sandbox.run("apply", &sandbox.one(), &[])?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(100), "{said}");
    assert!(said.contains("does not have the blob"), "{said}");
    Ok(())
}

/// Answers to a request to mount a blob from another repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mounting {
    Mounts,
    /// Opens an upload instead, as the specification permits.
    Opens,
    Refuses(u16),
    /// The token service denies a token that may also read the other repository.
    DeniesScope,
}

/// A registry whose repositories do not share blobs, unless they are mounted.
struct Separate {
    registry: Registry,
    mounting: Mounting,
    /// Address of the server, if it requires tokens.
    tokens: Option<Arc<OnceLock<String>>>,
    /// Repositories with the digests of their blobs.
    blobs: Mutex<BTreeSet<(String, String)>>,
}

impl Separate {
    fn answer(&self, request: &Request) -> Option<Answer> {
        let parameters: Vec<_> =
            request.query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let all = |name: &str| {
            let named = parameters.iter().filter(|(known, _)| *known == name);
            named.map(|(_, value)| *value).collect::<Vec<_>>()
        };
        if request.path == "/token" {
            let scopes = all("scope");
            let is_denied = self.mounting == Mounting::DeniesScope && scopes.len() > 1;
            let token = json!({"token": scopes.join("+")}).to_string();
            let denied = || error(403, "DENIED", "no access to the other repository");
            return Some(if is_denied { denied() } else { Answer::new(200, token) });
        }
        let repository = request.path.split('/').skip(2).take(2).collect::<Vec<_>>().join("/");
        let (mount, from) = (all("mount"), all("from"));
        if let Some(address) = &self.tokens {
            let token = request.header("authorization");
            let needed = [&repository].into_iter().map(String::as_str).chain(from.iter().copied());
            let may = |name: &str| token.contains(&format!("repository:{name}:pull"));
            if !needed.into_iter().all(may) {
                let address = address.get()?;
                let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"x\"");
                return Some(Answer::new(401, "").with("WWW-Authenticate", challenge));
            }
        }
        let name = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        match (request.method.as_str(), mount.first()) {
            ("HEAD", _) if request.path.contains("/blobs/") => {
                // The upload to the first repository ends before this document gets an answer.
                if repository == "test/second" && self.registry.names("test/first").is_empty() {
                    return Some(Answer::new(429, "").with("Retry-After", "1"));
                }
                let has = lock(&self.blobs).contains(&(repository, name));
                (!has).then(|| Answer::new(404, ""))
            }
            ("POST", Some(digest)) => match self.mounting {
                Mounting::Mounts => {
                    lock(&self.blobs).insert((repository, (*digest).to_owned()));
                    Some(Answer::new(201, ""))
                }
                Mounting::Refuses(status) => Some(error(status, "DENIED", "no mounts here")),
                Mounting::Opens | Mounting::DeniesScope => None,
            },
            ("PUT", _) if request.path.contains("/blobs/uploads/") => {
                lock(&self.blobs).insert((repository, crate::stub::digest(&request.body)));
                None
            }
            _ => None,
        }
    }
}

// hazard: Images with the same base send it once for each repository.
// class: What the registry has is sent again.
// members: registries that open an upload instead, deny the scope of the other repository, or know no mounts
// now: a large blob is mounted from a repository of the same run and login; any other answer costs one request
#[test]
fn a_blob_of_another_repository_is_mounted_and_a_refusal_does_not_end_the_upload() -> Test {
    let refusals = [401, 404, 405, 500].map(Mounting::Refuses);
    let answers = [Mounting::Mounts, Mounting::Opens, Mounting::DeniesScope];
    for mounting in answers.into_iter().chain(refusals) {
        for has_tokens in [false, true] {
            let host = Arc::<OnceLock<String>>::default();
            let registry = Registry::default();
            let tokens = has_tokens.then(|| host.clone());
            let shared = registry.clone();
            let separate = Separate { registry: shared, mounting, tokens, blobs: Mutex::default() };
            let server = quirky(&registry, move |request| separate.answer(request))?;
            let _ = host.set(server.address.clone());
            let sandbox = Sandbox::new(&server.address)?;
            let large = format!("kind: ConfigMap\ndata: {{a: {}}}\n", noise().repeat(3));
            sandbox.write("a/large.yaml", large)?;
            sandbox.commit("a large file")?;
            let first = sandbox.project(WITH_TOKEN) + &sandbox.artifact("first", "a", "first");
            let input = first + &sandbox.artifact("second", "a", "second");
            let case = format!("{mounting:?}, tokens: {has_tokens}");
            let applied = sandbox.expect(0, "apply", &input)?;
            let seen = server.take();
            let of = |name: &str| {
                let within = format!("test/{name}/");
                seen.iter().filter(|request| request.path.contains(&within)).collect::<Vec<_>>()
            };
            let large = |name: &str| {
                of(name).iter().filter(|request| request.body.len() > 64 * 1024).count()
            };
            let mounts = |name: &str| {
                of(name).iter().filter(|request| request.query.contains("mount=")).count()
            };
            assert_eq!((large("first"), mounts("first")), (1, 0), "{case}");
            let sent = usize::from(mounting != Mounting::Mounts);
            assert_eq!(large("second"), sent, "{case}");
            if !has_tokens {
                assert_eq!(mounts("second"), 1, "{case}");
                let count =
                    |name: &str| of(name).iter().filter(|request| request.method != "HEAD").count();
                let expected = match mounting {
                    Mounting::Mounts => count("first") - 1,
                    Mounting::Opens | Mounting::DeniesScope => count("first"),
                    Mounting::Refuses(_) => count("first") + 1,
                };
                assert_eq!(count("second"), expected, "{case}");
            }
            sandbox.expect(0, "verify", &text(&applied))?;
        }
    }
    Ok(())
}

/// Returns 60,000 characters that compress badly.
fn noise() -> String {
    let mut state = 1_u64;
    let mut letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or_default())
    };
    (0..60_000).map(&mut letter).collect()
}
