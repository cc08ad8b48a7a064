//! A login goes only to the registry's own origin, and to the realm that the registry names.

use std::collections::BTreeSet;

use crate::stub::{Answer, Registry, Request, Sandbox, Server, Test, error, reason, serve, text};

/// The login `holistic:sesame` in base64.
const LOGIN: &str = "aG9saXN0aWM6c2VzYW1l";
const WITH_TOKEN: &str = ", token: {env: PASSWORD}";

/// Returns the kinds of credentials that a server received: `Basic`, `Bearer`, or none.
fn credentials(server: &Server) -> BTreeSet<&'static str> {
    let kind = |request: &Request| {
        let sent = format!("{request:?}");
        if sent.contains(LOGIN) || sent.contains("sesame") {
            "Basic"
        } else if sent.contains("a-token") {
            "Bearer"
        } else {
            "none"
        }
    };
    server.take().iter().map(kind).collect()
}

/// Demands a token, as GHCR and Docker Hub do, and passes requests with a token on to `registry`.
fn guarded(registry: &Registry, realm: &str, request: &Request) -> Answer {
    if request.header("authorization") == "Bearer a-token" {
        return registry.answer(request);
    }
    let challenge = format!("Bearer realm=\"{realm}\",service=\"test\"");
    error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", challenge)
}

fn realm(request: &Request) -> Answer {
    if request.header("authorization") == format!("Basic {LOGIN}") {
        Answer::new(200, r#"{"token":"a-token"}"#)
    } else {
        Answer::new(401, "")
    }
}

/// Tests every way in which a registry can name another host, with every verb, and records the
/// credentials that each host received.
// hazard: A registry's login reaches another host, which asked for it after a redirect.
// class: A credential is not bound to one origin.
// members: redirected blobs, manifests, lists and tags, upload locations, `Link`s, proxies
// now: `InvalidResponse`: the host that the registry redirects to demands a login; nothing was sent
#[test]
fn a_login_reaches_only_the_registry_and_its_realm() -> Test {
    let stolen = serve(|_| {
        // The redirect's target demands a login, with a realm of its own.
        Some(Answer::new(401, "").with(
            "WWW-Authenticate",
            "Bearer realm=\"http://127.0.0.1:1/steal\", Basic realm=\"steal\"",
        ))
    })?;
    let mut page = "\
# Which host saw which credential
By `apply`, `plan`, `verify`, `plan --destroy` and `destroy` together, for each way in which the registry sends a client to another
host, which answers with a challenge of its own. `Basic` is the login, `Bearer` a token for it, `none` a request without either.

| what leads elsewhere | registry | its realm | the other host |
|---|---|---|---|
"
    .to_owned();
    for way in ["none", "blobs", "manifests", "referrers", "tags", "uploads", "links"] {
        let (registry, own_realm) = (Registry::default(), serve(|request| Some(realm(request)))?);
        let (kept, at) = (registry.clone(), format!("http://{}/token", own_realm.address));
        let other = stolen.address.clone();
        let server = serve(move |request| {
            let answer = guarded(&kept, &at, request);
            let elsewhere = format!("http://{other}{}", request.target);
            let is_there = answer.status < 300;
            let moved = |status| Some(Answer::new(status, "").with("Location", elsewhere.clone()));
            match way {
                "blobs"
                    if is_there && request.method == "GET" && request.path.contains("/blobs/") =>
                {
                    moved(307)
                }
                "manifests"
                    if is_there
                        && request.method == "GET"
                        && request.path.contains("/manifests/") =>
                {
                    moved(302)
                }
                "referrers" if is_there && request.path.contains("/referrers/") => moved(301),
                "tags"
                    if !request.header("authorization").is_empty()
                        && request.path.contains("/tags/") =>
                {
                    moved(308)
                }
                "uploads" if is_there && request.method == "POST" => moved(202),
                "links" if is_there => {
                    Some(answer.with("Link", format!("<{elsewhere}&n=1>; rel=\"next\"")))
                }
                _ => Some(answer),
            }
        })?;
        let sandbox = Sandbox::new(&server.address)?;
        let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
        let applied = sandbox.run("apply", &input, &[])?;
        if way == "none" {
            assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        }
        for verb in ["plan", "verify", "plan --destroy", "destroy"] {
            sandbox.run(verb, &input, &[])?;
        }
        let table = [&server, &own_realm, &stolen].map(credentials);
        assert!(table[0].is_subset(&["none", "Bearer"].into()), "{way}: {table:?}");
        assert_eq!(table[1], ["Basic"].into(), "{way}: {table:?}");
        assert!(table[2].is_subset(&["none"].into()), "{way}: {table:?}");
        let cell =
            |kinds: &BTreeSet<&str>| match kinds.iter().copied().collect::<Vec<_>>().join(", ") {
                nothing if nothing.is_empty() => "was not asked".to_owned(),
                kinds => kinds,
            };
        let [registry, realm, other] = table.each_ref().map(cell);
        page += &["| ", way, " | ", &registry, " | ", &realm, " | ", &other, " |\n"].concat();
    }
    snapbox::assert_data_eq!(page, snapbox::file!["credentials.md"].raw());
    Ok(())
}

// hazard: A registry names a realm inside of a network, or over plain HTTP, and gets the login sent.
// class: A credential is not bound to one origin.
// members: link-local, private and loopback addresses, numbers that are addresses, users in URLs
// now: `InvalidResponse`: the challenge names the realm, and why the login was not sent there
#[test]
fn a_login_is_never_sent_to_an_unsafe_realm() -> Test {
    let other = serve(|request| Some(realm(request)))?;
    for at in [
        "http://169.254.169.254/token",
        "https://169.254.169.254/token",
        "http://10.0.0.1/token",
        "https://10.0.0.1/token",
        "http://auth.example/token",
        "https://user@auth.example/token",
        "https://2130706433/token",
        "file:///etc/passwd",
        "/token",
        "",
    ] {
        let registry = Registry::default();
        let server = serve(move |request| Some(guarded(&registry, at, request)))?;
        let sandbox = Sandbox::new(&server.address)?;
        let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
        for verb in ["plan", "apply", "verify", "destroy"] {
            let run = sandbox.expect(100, verb, &input)?;
            assert_eq!(reason(&run[1]), "InvalidResponse", "{at}");
        }
        assert_eq!(credentials(&server), ["none"].into(), "{at}");
    }
    assert_eq!(credentials(&other), [].into());
    Ok(())
}

/// An https registry is reached through a tunnel, in which the proxy sees neither login nor path. A
/// registry on this machine is reached without a proxy.
#[test]
fn a_proxy_never_sees_a_login() -> Test {
    let proxy = serve(|_| Some(Answer::new(200, "")))?;
    let registry = Registry::default();
    let server = serve(move |request| {
        let is_known = request.header("authorization") == format!("Basic {LOGIN}");
        let challenge = Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"test\"");
        Some(if is_known { registry.answer(request) } else { challenge })
    })?;
    let mut sandbox = Sandbox::new(&server.address)?;
    let address = format!("http://{}", proxy.address);
    let variables: Vec<_> =
        ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
            .iter()
            .map(|name| (*name, address.as_str()))
            .collect();
    let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
    assert_eq!(sandbox.run("apply", &input, &variables)?.status.code(), Some(0));
    assert_eq!(credentials(&proxy), [].into(), "a registry on this machine is reached directly");
    assert_eq!(credentials(&server), ["none", "Basic"].into());

    "https://registry.example".clone_into(&mut sandbox.registry);
    let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
    // The key of these tests is public, so the program rejects it for a registry on another
    // machine.
    let unknown_key = ("ARTIFACT_ATTEST_KEY", "HxAdHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=");
    let variables: Vec<_> = variables.into_iter().chain([unknown_key]).collect();
    assert_eq!(sandbox.run("plan", &input, &variables)?.status.code(), Some(111));
    let seen = proxy.take();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.method == "CONNECT"), "{seen:?}");
    assert!(seen.iter().all(|request| request.header("authorization").is_empty()), "{seen:?}");
    assert!(!format!("{seen:?}").contains(LOGIN));
    Ok(())
}

// hazard: A registry's message repeats the login, and it ends up in a log and in a status.
// class: Responses may contain secrets.
// members: errors of the realm, messages of 403, 4xx and 5xx, queries of URLs
// now: the code and the message of the registry, without the login and without what looks like a token
/// A registry's response may quote the request. Neither the message nor the status repeats the
/// login.
#[test]
fn a_message_that_repeats_the_login_is_redacted() -> Test {
    let server = serve(|request| {
        let sent = request.header("authorization").to_owned();
        if sent.is_empty() {
            return Some(Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"test\""));
        }
        let message =
            format!("installation not allowed to Create organization package; got {sent} sesame");
        Some(error(403, "DENIED", &message))
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
    let run = sandbox.run("apply", &input, &[])?;
    assert_eq!(run.status.code(), Some(100));
    let said =
        String::from_utf8_lossy(&run.stderr).into_owned() + &text(&crate::stub::written(&run)?);
    assert!(said.contains("installation not allowed to Create organization package"), "{said}");
    assert!(!said.contains(LOGIN) && !said.contains("sesame"), "{said}");
    Ok(())
}
