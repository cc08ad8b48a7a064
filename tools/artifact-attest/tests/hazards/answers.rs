//! Odd responses of a registry. The exit status is always a documented one, every document is
//! written, and the status claims only what was proven.

use serde_json::json;

use crate::stub::{
    Answer, INDEX, Registry, Request, Sandbox, Test, error, published, reason, serve, text, written,
};

const VERBS: [&str; 5] = ["plan --check", "plan --check --destroy", "verify", "apply", "destroy"];

/// Pseudo-random numbers, equal in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap_or_default()
    }
}

/// Returns a response that no registry should give.
fn odd(dice: &mut Dice, good: &Answer) -> Answer {
    let bodies: [&[u8]; 12] = [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b"<html>",
        b"\xff\xfe",
        b"{\"errors\":[{\"code\":7}]}",
        b"{\"manifests\":[{\"digest\":\"sha256:zz\"},7,null,{\"digest\":{}}]}",
        b"{\"schemaVersion\":2,\"config\":{},\"layers\":[]}",
        b"{\"name\":\"x\",\"tags\":[\"../../../etc\",7,\"a b\",\"\"]}",
        b"{\"token\":\"\"}",
    ];
    let headers = [
        ("WWW-Authenticate", "Bearer realm=\"\\\",,=\""),
        ("WWW-Authenticate", "Basic"),
        ("Location", "//"),
        ("Location", "http://[::1"),
        ("Location", "?"),
        ("Link", "<>; rel=\"next\""),
        ("Link", "<?a b>; rel=next"),
        ("Retry-After", "-1"),
        ("Retry-After", "Wed, 21 Oct 2099 07:28:00 GMT"),
        ("Content-Type", INDEX),
        ("Content-Type", "\u{7f}"),
    ];
    let statuses = [200, 201, 202, 204, 301, 303, 307, 400, 401, 403, 404, 405, 413, 418, 501];
    let mut answer = good.clone();
    match dice.roll(3) {
        0 => answer.body = bodies[dice.roll(bodies.len())].to_vec(),
        1 => {
            answer.status = statuses[dice.roll(statuses.len())];
            answer.body = bodies[dice.roll(bodies.len())].to_vec();
        }
        _ => {}
    }
    let (name, value) = headers[dice.roll(headers.len())];
    if name != "Content-Type" {
        answer.headers.retain(|(known, _)| known != name);
    }
    answer.with(name, value)
}

// hazard: An odd answer of a registry ends the program in a way that no caller knows.
// class: Input causes a panic or an exit status that is not in the manual.
// members: headers, statuses, bodies, references, tags with slashes
// now: exit status 0, 3, 100 or 111, and every document is written
#[test]
fn an_odd_response_never_causes_an_undocumented_exit_status() -> Test {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = serve(move |request| Some(shared.answer(request)))?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = text(&sandbox.expect(0, "apply", &sandbox.one())?);
    for seed in 0..12 {
        for verb in VERBS {
            let dice = std::sync::Mutex::new(Dice(seed));
            let shared = registry.clone();
            server.answer(move |request| {
                let good = shared.answer(request);
                let mut dice = dice.lock().ok()?;
                Some(if dice.roll(4) == 0 { odd(&mut dice, &good) } else { good })
            });
            let run = sandbox.run(verb, &applied, &[])?;
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            let code = run.status.code();
            assert!(matches!(code, Some(0 | 3 | 100 | 111)), "{verb}, {seed}: {code:?}\n{said}");
            assert!(!said.contains("panicked"), "{verb}, {seed}: {said}");
            assert_eq!(written(&run)?.len(), 2, "{verb}, {seed}: every document is written");
        }
    }
    Ok(())
}

#[test]
fn an_odd_document_ends_with_status_2() -> Test {
    let sandbox = Sandbox::new("127.0.0.1:9")?;
    let good = sandbox.one();
    for (from, to) in [
        ("repository: shared", "repository: ''"),
        ("repository: shared", "repository: a//b"),
        ("repository: shared", "repository: \"a\\0b\""),
        ("repository: shared", "repository: ../x"),
        ("path: ./a", "path: ''"),
        ("path: ./a", "path: \"\\0\""),
        ("path: ./a", "path: /proc/self/mem"),
        ("name: a}", "name: ''}"),
        ("source: https://example.org/test/test", "source: 'https://a@b'"),
        ("sourceCheck: skip", "sourceCheck: maybe"),
        ("manifests: {", "build: {flake: .}, manifests: {"),
        ("manifests: {", "image: {repository: aa, entrypoint: [a]}, build: {flake: .}, x: {"),
    ] {
        let run = sandbox.run("apply", &good.replace(from, to), &[])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{to}: {said}");
    }
    Ok(())
}

// hazard: A few hundred foreign referrers make every verb fail, for ever.
// class: What a stranger may write stops the program.
// members: pages of referrers, entries without a digest, referrers that are too large or corrupt
// now: all of them are looked through, ours first
/// Incident: CI that signs with cosign adds a referrer at every run.
#[test]
fn foreign_referrers_do_not_hide_ours_on_any_number_of_pages() -> Test {
    for native in [false, true] {
        let registry = Registry::default();
        let shared = registry.clone();
        let server = serve(move |request| Some(shared.answer(request)))?;
        let sandbox = Sandbox::new(&server.address)?;
        let applied = sandbox.expect(0, "apply", &sandbox.one())?;
        let subject = published(&applied[1])?.to_owned();
        let tag = subject.replace(':', "-");
        let key = ("test/shared".to_owned(), tag.clone());
        let list = registry.with(|all| all.manifests[&key].1.clone());
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        let ours = list["manifests"].as_array().ok_or("no list")?.clone();
        let foreign = registry.put("test/shared", "foreign", INDEX, b"{}");
        let entry = json!({"mediaType": INDEX, "digest": foreign, "size": 2});
        let all = [vec![entry; 400], ours].concat();
        if native {
            // The registry's own list, with a hundred entries per page.
            let kept = registry.clone();
            server.answer(move |request| Some(page(&kept, &all, request)));
        } else {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": all});
            registry.put("test/shared", &tag, INDEX, index.to_string().as_bytes());
        }
        let input = text(&applied);
        for (code, verb) in
            [(0, "verify"), (0, "plan --check"), (0, "apply"), (3, "plan --check --destroy")]
        {
            sandbox.expect(code, verb, &input)?;
        }
    }
    Ok(())
}

fn page(registry: &Registry, all: &[serde_json::Value], request: &Request) -> Answer {
    if !request.path.contains("/referrers/") {
        return registry.answer(request);
    }
    let from =
        request.target.split("from=").nth(1).and_then(|text| text.parse().ok()).unwrap_or(0_usize);
    let page: Vec<_> = all.iter().skip(from).take(100).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": page});
    let answer = Answer::new(200, index.to_string()).with("Content-Type", INDEX);
    if from + 100 < all.len() {
        let next = format!("<{}?from={}>; rel=\"next\"", request.path, from + 100);
        return answer.with("Link", next);
    }
    answer
}

// hazard: A 404 of a repository that the login may not see is reported as `Destroyed`.
// class: Silence is taken for absence.
// members: anonymous clients, tokens without the right to read, `plan`, `verify`, `plan --destroy`
// now: `AbsenceUnproven`, unless the registry has no logins or the login may write there
/// Three kinds of 404: the registry has no logins; it hides private repositories from anonymous
/// clients; it hides them from this login.
#[test]
fn a_404_proves_absence_only_to_a_client_with_access() -> Test {
    let (login, none) = (", token: {env: PASSWORD}", "");
    for (asks, token, may_write, verb, code, expected) in [
        (false, none, true, "destroy", 0, "Destroyed"),
        (false, none, true, "plan --destroy", 0, "Planned"),
        (true, none, false, "destroy", 100, "AbsenceUnproven"),
        (true, none, false, "plan --destroy", 100, "AbsenceUnproven"),
        (true, none, false, "plan", 100, "AbsenceUnproven"),
        (true, none, false, "verify", 100, "AbsenceUnproven"),
        (true, login, false, "destroy", 100, "AbsenceUnproven"),
        (true, login, false, "plan --destroy", 100, "AbsenceUnproven"),
        (true, login, true, "destroy", 0, "Destroyed"),
        (true, login, true, "plan", 0, "Planned"),
    ] {
        let holder: std::sync::Arc<std::sync::OnceLock<String>> = std::sync::Arc::default();
        let address = holder.clone();
        let server = serve(move |request| {
            let host = address.get().cloned().unwrap_or_default();
            if request.path == "/token" {
                return Some(Answer::new(200, r#"{"token":"a-token"}"#));
            }
            if asks && request.header("authorization").is_empty() {
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
                return Some(Answer::new(401, "").with("WWW-Authenticate", challenge));
            }
            Some(match (request.path.as_str(), request.method.as_str()) {
                ("/v2/", _) => Answer::new(200, "{}"),
                (_, "POST") if may_write => {
                    Answer::new(202, "").with("Location", "/v2/test/shared/blobs/uploads/1")
                }
                (_, "POST" | "PUT" | "DELETE") => {
                    error(403, "DENIED", "requested access is denied")
                }
                _ => error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            })
        })?;
        let _ = holder.set(server.address.clone());
        let sandbox = Sandbox::new(&server.address)?;
        let input = sandbox.project(token) + &sandbox.artifact("a", "a", "shared");
        let run = sandbox.run(verb, &input, &[])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let case = format!("{verb}, asks: {asks}, login: {token}, writes: {may_write}: {said}");
        assert_eq!(run.status.code(), Some(code), "{case}");
        let known = if expected == "AbsenceUnproven" { "Unknown" } else { "False" };
        let written = written(&run)?;
        assert_eq!(reason(&written[1]), expected, "{case}");
        assert_eq!(written[1]["status"]["conditions"][0]["status"], known, "{case}");
    }
    Ok(())
}

/// Harbor answers `NOT_FOUND` for every missing object, even to a login with access to the
/// repository.
#[test]
fn a_list_of_tags_proves_access_to_the_repository() -> Test {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = serve(move |request| {
        if request.path == "/v2/" && request.header("authorization").is_empty() {
            return Some(Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"harbor\""));
        }
        let answer = shared.answer(request);
        Some(match (answer.status, request.path.contains("/tags/")) {
            (404, true) => Answer::new(200, r#"{"name":"test/shared","tags":[]}"#),
            (404, false) => error(404, "NOT_FOUND", "artifact test/shared:x not found"),
            _ => answer,
        })
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let input = sandbox.project(", token: {env: PASSWORD}") + &sandbox.artifact("a", "a", "shared");
    for (code, verb) in
        [(0, "plan --check --destroy"), (3, "plan --check"), (0, "apply"), (0, "verify")]
    {
        sandbox.expect(code, verb, &input)?;
    }
    Ok(())
}
