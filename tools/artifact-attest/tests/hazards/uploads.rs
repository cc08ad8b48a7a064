//! Uploads that break off, and registries that answer them unusually.

use std::sync::Mutex;

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

/// Returns 60,000 characters that compress badly.
fn noise() -> String {
    let mut state = 1_u64;
    let mut letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or_default())
    };
    (0..60_000).map(&mut letter).collect()
}
