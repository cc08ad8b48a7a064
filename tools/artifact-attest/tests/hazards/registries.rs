//! Quirks of public registries, each as its own server: scopes, denied reads, lists, uploads and logins.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use data_encoding::BASE64;

use crate::stub::{
    Answer, INDEX, Registry, Request, Sandbox, Server, Test, error, published, reason, serve, text,
};

pub(crate) const WITH_TOKEN: &str = ", token: {env: PASSWORD}";

pub(crate) fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts `registry` with the changes of `quirk`, which returns `None` for requests that it leaves alone.
pub(crate) fn quirky(
    registry: &Registry,
    quirk: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
) -> std::io::Result<Server> {
    let shared = registry.clone();
    serve(move |request| quirk(request).or_else(|| Some(shared.answer(request))))
}

/// Returns the value of a parameter in the query of a request.
fn parameter<'a>(request: &'a Request, name: &str) -> &'a str {
    let pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

// hazard: A registry's token service rejects an unknown action, so that nothing can be published.
// class: A token asks for more than the verb needs.
// members: `delete` outside of `destroy`, one token for each reader and writer
// now: one token for each run and repository, with the actions of the verb
#[test]
fn each_verb_requests_one_token_with_the_actions_that_it_needs() -> Test {
    for knows_delete in [true, false] {
        let (registry, host) = (Registry::default(), Arc::<OnceLock<String>>::default());
        let at = host.clone();
        let server = quirky(&registry, move |request| {
            if request.path == "/token" {
                let is_unknown = parameter(request, "scope").contains("delete") && !knows_delete;
                return Some(if is_unknown {
                    error(400, "UNSUPPORTED", "invalid scope")
                } else {
                    Answer::new(200, r#"{"token":"a-token"}"#)
                });
            }
            let challenge =
                format!("Bearer realm=\"http://{}/token\",service=\"x\"", at.get()?.as_str());
            (request.header("authorization") != "Bearer a-token")
                .then(|| Answer::new(401, "").with("WWW-Authenticate", challenge))
        })?;
        let _ = host.set(server.address.clone());
        let sandbox = Sandbox::new(&server.address)?;
        let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
        let deletes: &[&str] =
            if knows_delete { &["pull,push,delete"] } else { &["pull,push,delete", "*"] };
        for (verb, expected) in [
            ("plan", &["pull"][..]),
            ("apply", &["pull,push"]),
            ("apply", &["pull,push"]),
            ("verify", &["pull"]),
            ("plan --destroy", &["pull"]),
            ("destroy", deletes),
        ] {
            let _ = server.take();
            sandbox.expect(0, verb, &input)?;
            let seen = server.take();
            let tokens = seen.iter().filter(|request| request.path == "/token");
            let actions: Vec<_> = tokens
                .map(|request| parameter(request, "scope").rsplit(':').next().unwrap_or_default())
                .collect();
            assert_eq!(actions, expected, "{verb}");
        }
        assert_eq!(registry.named("test/shared"), [""; 0]);
    }
    Ok(())
}

// hazard: The first `apply` fails with 401 or 403, although the same login may push.
// class: A denied read is taken for a denied write.
// members: Docker Hub, Artifactory, Quay's robots without read access to the namespace
// now: the right to push is tried before "denied"
#[test]
fn a_denied_read_of_an_absent_repository_does_not_end_the_first_run() -> Test {
    for status in [401, 403] {
        for may_push in [true, false] {
            let registry = Registry::default();
            let kept = registry.clone();
            let server = quirky(&registry, move |request| {
                if request.header("authorization").is_empty() {
                    return Some(Answer::new(401, "").with("WWW-Authenticate", "Basic"));
                }
                let is_absent = kept.names("test/shared").is_empty();
                let is_read = matches!(request.method.as_str(), "GET" | "HEAD");
                let is_denied = request.path != "/v2/" && is_absent && (is_read || !may_push);
                let denied = || error(status, "DENIED", "no pull access to test/shared");
                is_denied.then(|| denied().with("WWW-Authenticate", "Basic"))
            })?;
            let sandbox = Sandbox::new(&server.address)?;
            let input = sandbox.project(WITH_TOKEN) + &sandbox.artifact("a", "a", "shared");
            for verb in ["plan", "apply", "verify"] {
                let run = sandbox.run(verb, &input, &[])?;
                let said = String::from_utf8_lossy(&run.stderr).into_owned();
                let code = if may_push { 0 } else { 100 };
                assert_eq!(run.status.code(), Some(code), "{status} {verb}: {said}");
                if !may_push {
                    assert!(said.contains("DENIED no pull access to test/shared"), "{said}");
                }
                if verb == "plan" {
                    assert_eq!(registry.names("test/shared"), [""; 0], "a plan writes nothing");
                }
            }
        }
    }
    Ok(())
}

// hazard: A registry answers the referrers API and does not list what was pushed: exit 111 for ever.
// class: A feature is believed because its address answers.
// members: an empty list, a list behind a redirect, pages with links to other paths
// now: what is not listed is listed under the fallback tag, too
#[test]
fn a_registry_whose_own_list_stays_empty_gets_the_fallback_tag() -> Test {
    let registry = Registry::default();
    let server = quirky(&registry, |request| {
        let list = r#"{"schemaVersion":2,"manifests":[]}"#;
        let is_list = request.path.contains("/referrers/");
        is_list.then(|| Answer::new(200, list).with("Content-Type", INDEX))
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = sandbox.expect(0, "apply", &sandbox.one())?;
    let subject = published(&applied[1])?;
    assert_eq!(registry.listed("test/shared", subject).len(), 2);
    let _ = server.take();
    assert_eq!(text(&sandbox.expect(0, "apply", &text(&applied))?), text(&applied));
    let is_write = |request: &&Request| !matches!(request.method.as_str(), "GET" | "HEAD");
    assert_eq!(server.take().iter().filter(is_write).count(), 0, "a second run writes nothing");
    sandbox.expect(0, "verify", &text(&applied))?;
    sandbox.expect(0, "destroy", &text(&applied))?;
    assert_eq!(registry.named("test/shared"), [""; 0]);
    Ok(())
}

#[test]
fn a_list_of_referrers_is_followed_over_redirects_and_pages() -> Test {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = quirky(&registry, move |request| {
        if let Some(name) = request.path.strip_prefix("/v2/test/shared/referrers/") {
            let to = format!("/artifactory/{name}?page=0");
            return Some(Answer::new(302, "").with("Location", to));
        }
        let subject = request.path.strip_prefix("/artifactory/")?;
        let entries = shared.with(|all| {
            let key = |digest: &str| all.manifests.get(&("test/shared".into(), digest.into()));
            let digests: Vec<_> = all.manifests.keys().map(|(_, name)| name.clone()).collect();
            let is_referrer = |digest: &String| {
                let bytes = key(digest).map(|(_, bytes)| String::from_utf8_lossy(bytes));
                digest.starts_with("sha256:") && bytes.is_some_and(|text| text.contains(subject))
            };
            let entry = |digest: String| serde_json::json!({"mediaType": INDEX, "digest": digest, "size": 1});
            digests.into_iter().filter(is_referrer).map(entry).collect::<Vec<_>>()
        });
        let page: usize = parameter(request, "page").parse().ok()?;
        let list = serde_json::json!({"schemaVersion": 2, "manifests": entries.get(page).into_iter().collect::<Vec<_>>()});
        let answer = Answer::new(200, list.to_string()).with("Content-Type", INDEX);
        let next = format!("<?page={}>; rel=\"next\"", page + 1);
        Some(if page + 1 < entries.len() { answer.with("Link", next) } else { answer })
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = text(&sandbox.expect(0, "apply", &sandbox.one())?);
    for verb in ["apply", "verify", "plan --check"] {
        sandbox.expect(0, verb, &applied)?;
    }
    let pages = server.take().into_iter().filter(|request| request.target.contains("page=1"));
    assert!(pages.count() > 0, "the second page was read");
    let is_list =
        |name: &String| name.starts_with("sha256-") && name.strip_suffix(".sig").is_none();
    assert!(!registry.names("test/shared").iter().any(is_list));
    Ok(())
}

/// A list whose last page leads to its first one.
#[test]
fn a_list_without_an_end_is_an_error() -> Test {
    let server = quirky(&Registry::default(), |request| {
        let is_list = request.path.contains("/referrers/");
        let link = format!("<{}>; rel=\"next\"", request.target);
        let list = r#"{"schemaVersion":2,"manifests":[]}"#;
        is_list.then(|| Answer::new(200, list).with("Content-Type", INDEX).with("Link", link))
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let run = sandbox.expect(100, "plan", &sandbox.one())?;
    assert_eq!(reason(&run[1]), "InvalidResponse");
    Ok(())
}

// hazard: A user who has logged in with `docker login` has to write the token into a document, too.
// class: A tool ignores the login that the user's other tools share.
// members: DOCKER_CONFIG, auth.json, credential helpers, stores, identity tokens
// now: the first login of these files is used when the document has none
#[test]
fn a_login_comes_from_dockers_configuration_when_the_document_has_none() -> Test {
    let host = Arc::<OnceLock<String>>::default();
    let at = host.clone();
    let server = quirky(&Registry::default(), move |request| {
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", at.get()?);
        let basic = format!("Basic {}", BASE64.encode(b"me:sesame"));
        let form = String::from_utf8_lossy(&request.body);
        let is_right = request.header("authorization") == basic
            || (request.method == "POST" && form.contains("&refresh_token=ses%26ame"));
        match request.path.as_str() {
            "/token" if is_right => Some(Answer::new(200, r#"{"access_token":"a-token"}"#)),
            "/token" => Some(Answer::new(401, r#"{"details":"incorrect password"}"#)),
            _ if request.header("authorization") == "Bearer a-token" => None,
            _ => Some(Answer::new(401, "").with("WWW-Authenticate", realm)),
        }
    })?;
    let _ = host.set(server.address.clone());
    let sandbox = Sandbox::new(&server.address)?;
    let (at, folder) = (&server.address, sandbox.outside("logins"));
    fs::create_dir_all(folder.join("bin"))?;
    let helper = folder.join("bin/docker-credential-vault");
    fs::write(
        &helper,
        format!(
            "#!/bin/sh\nread server\ntest \"$1 $server\" = 'get {at}' || {{ echo credentials not found in native keychain; exit 1; }}\necho '{{\"Username\":\"me\",\"Secret\":\"sesame\"}}'\n"
        ),
    )?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH")?);
    let auth = |pair: &str| {
        format!(r#"{{"auths":{{"{at}":{{"auth":"{}"}}}}}}"#, BASE64.encode(pair.as_bytes()))
    };
    let [right, wrong] = ["me:sesame", "me:mellon"].map(auth);
    let cases = BTreeMap::from([
        ("auths", (0, right)),
        ("wrong", (100, wrong)),
        ("other", (100, r#"{"auths":{"other.example":{"auth":"bWU6c2VzYW1l"}}}"#.to_owned())),
        ("helper", (0, format!(r#"{{"credHelpers":{{"{at}":"vault"}}}}"#))),
        ("store", (0, r#"{"credsStore":"vault"}"#.to_owned())),
        ("missing", (100, r#"{"credsStore":"not-installed"}"#.to_owned())),
        ("identity", (0, format!(r#"{{"auths":{{"{at}":{{"identitytoken":"ses&ame"}}}}}}"#))),
        ("broken", (100, "{".to_owned())),
    ]);
    for (name, (code, config)) in &cases {
        fs::create_dir_all(folder.join(name))?;
        fs::write(folder.join(name).join("config.json"), config)?;
        let at = folder.join(name).display().to_string();
        let file = format!("{at}/config.json");
        for variable in [("DOCKER_CONFIG", at.as_str()), ("REGISTRY_AUTH_FILE", &file)] {
            let run = sandbox.run("plan", &sandbox.one(), &[variable, ("PATH", &path)])?;
            let said = String::from_utf8_lossy(&run.stderr).into_owned();
            assert_eq!(run.status.code(), Some(*code), "{name}, {}: {said}", variable.0);
            assert!(!said.contains("mellon") && !said.contains("sesame"), "{said}");
            if *name == "missing" {
                assert!(said.contains("docker-credential-not-installed"), "{said}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_registry_that_cannot_work_is_a_mistake_with_its_position() -> Test {
    let mut sandbox = Sandbox::new("127.0.0.1:9")?;
    for (url, more, expected) in [
        ("https://docker.io", WITH_TOKEN, "Docker ID"),
        ("https://ghcr.io/ZabroNax", "", "capital letters"),
        ("https://ghcr.io", ", certificateAuthority: hello", "BEGIN CERTIFICATE"),
    ] {
        url.clone_into(&mut sandbox.registry);
        let input = sandbox.project(more) + &sandbox.artifact("a", "a", "shared");
        // The key of these tests is public, so the program rejects it for a registry on another machine.
        let key = ("ARTIFACT_ATTEST_KEY", "HxAdHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=");
        let run = sandbox.run("plan", &input, &[key])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && said.contains("input:14:3"), "{said}");
    }
    Ok(())
}

/// Returns the digest that a tag of the repository names.
fn named(registry: &Registry, tag: &str) -> Option<String> {
    let key = ("test/shared".to_owned(), tag.to_owned());
    registry.with(|all| all.manifests.get(&key).map(|(_, bytes)| crate::stub::digest(bytes)))
}

// hazard: `latest` names an image whose signatures do not exist yet, and verifiers reject it.
// class: A name moves before what it names is complete.
// members: the tag of the content, declared tags
// now: declared tags move last, in their order, and the plan shows where from
#[test]
fn declared_tags_move_last_and_the_plan_shows_where_from() -> Test {
    let registry = Registry::default();
    let server = quirky(&registry, |_| None)?;
    let sandbox = Sandbox::new(&server.address)?;
    let input = sandbox.one() + "  tags: ['r-{rev}', latest]\n";
    let first = sandbox.expect(0, "apply", &input)?;
    let old = published(&first[1])?.to_owned();
    sandbox.write("a/map.yaml", "kind: ConfigMap\ndata: {of: c}\n")?;
    sandbox.commit("a change")?;
    let plan = sandbox.run("plan", &input, &[])?;
    let said = String::from_utf8_lossy(&plan.stderr).into_owned();
    assert!(said.contains(&format!("change tag latest: {} → ", &old[..19])), "{said}");
    let _ = server.take();
    let second = sandbox.expect(0, "apply", &input)?;
    let new = published(&second[1])?.to_owned();
    let puts: Vec<_> =
        server.take().into_iter().filter(|request| request.method == "PUT").collect();
    let last = puts.last().ok_or("no write")?;
    assert!(last.path.ends_with("/manifests/latest"), "{}", last.path);
    assert_eq!(named(&registry, "latest"), Some(new.clone()));

    // A tag that was moved by hand is drift.
    let key = |tag: &str| ("test/shared".to_owned(), tag.to_owned());
    registry.with(|all| {
        let old = all.manifests[&key(&old)].clone();
        all.manifests.insert(key("latest"), old);
    });
    sandbox.expect(3, "plan --check", &input)?;
    sandbox.expect(100, "verify", &text(&second))?;
    sandbox.expect(0, "apply", &input)?;
    assert_eq!(named(&registry, "latest"), Some(new));
    sandbox.expect(0, "destroy", &input)?;
    assert_eq!(registry.named("test/shared"), [""; 0]);
    Ok(())
}

#[test]
fn a_tag_that_no_registry_accepts_is_a_mistake() -> Test {
    let sandbox = Sandbox::new("127.0.0.1:9")?;
    for (tags, expected) in [
        ("['']", "not a tag"),
        ("[a/b]", "not a tag"),
        ("['{date}']", "not a tag"),
        ("[sha256-aa]", "not a tag"),
        ("['v{version}']", "manifests have no version"),
    ] {
        let run = sandbox.run("plan", &format!("{}  tags: {tags}\n", sandbox.one()), &[])?;
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{tags}: {said}");
        assert!(said.contains(expected), "{tags}: {said}");
    }
    Ok(())
}

// hazard: A signature of another program disappears when this program signs, or destroys.
// class: A shared object is overwritten.
// members: the tag `sha256-….sig`, the list of referrers
// now: layers of others stay, and only ours are removed
#[test]
fn a_foreign_signature_for_older_verifiers_survives_apply_and_destroy() -> Test {
    let registry = Registry::default();
    let server = quirky(&registry, |_| None)?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = sandbox.expect(0, "apply", &sandbox.one())?;
    let tag = published(&applied[1])?.replace(':', "-") + ".sig";
    let key = ("test/shared".to_owned(), tag.clone());
    let read = || -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        let bytes = registry.with(|all| all.manifests.get(&key).cloned()).ok_or("no signatures")?.1;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let mut foreign = read()?;
    assert_eq!(foreign["layers"].as_array().map(Vec::len), Some(1));
    foreign["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"] = "AAAA".into();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    registry.put("test/shared", &tag, kind, foreign.to_string().as_bytes());
    sandbox.expect(3, "plan --check", &text(&applied))?;
    sandbox.expect(100, "verify", &text(&applied))?;
    sandbox.expect(0, "apply", &text(&applied))?;
    let both = read()?;
    assert_eq!(both["layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(both["layers"][0], foreign["layers"][0]);
    sandbox.expect(0, "verify", &text(&applied))?;
    sandbox.expect(0, "destroy", &text(&applied))?;
    assert_eq!(read()?["layers"], foreign["layers"]);
    Ok(())
}

// hazard: A drift check of thirty artifacts uses up the day's pulls of Docker Hub.
// class: A run that changes nothing costs as much as one that publishes.
// members: tags, manifests, bundles, configurations, signatures
// now: four requests, and HEAD for tags, within a day after the last look; `verify` reads everything
#[test]
fn a_run_without_changes_sends_four_requests_and_verify_reads_everything() -> Test {
    let registry = Registry::default();
    let shared = registry.clone();
    let server = quirky(&registry, move |request| {
        // Registries name the digest in the response to HEAD.
        let name = request.path.strip_prefix("/v2/test/shared/manifests/")?;
        let is_head = request.method == "HEAD";
        let digest = named(&shared, name).filter(|_| is_head)?;
        Some(shared.answer(request).with("Docker-Content-Digest", digest))
    })?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = text(&sandbox.expect(0, "apply", &sandbox.one())?);
    sandbox.expect(0, "apply", &applied)?;
    for verb in ["apply", "plan --check"] {
        let _ = server.take();
        sandbox.expect(0, verb, &applied)?;
        let seen: Vec<_> = server
            .take()
            .iter()
            .map(|request| (request.method.clone(), request.path.clone()))
            .collect();
        assert!(seen.len() <= 4, "{verb}: {seen:?}");
        let is_pull =
            |(method, path): &&(String, String)| method == "GET" && path.contains("/manifests/");
        assert_eq!(seen.iter().find(is_pull), None, "{verb}: {seen:?}");
    }
    let _ = server.take();
    sandbox.expect(0, "verify", &applied)?;
    let seen = server.take();
    let blobs = seen.iter().filter(|request| request.path.contains("/blobs/"));
    assert!(blobs.count() >= 4, "a layer, a configuration and two bundles");

    // An object that is gone from the registry is published again, whatever the cache has.
    sandbox.expect(0, "destroy", &applied)?;
    registry.with(|all| all.blobs.clear());
    sandbox.expect(0, "apply", &applied)?;
    sandbox.expect(0, "verify", &applied)?;
    Ok(())
}

// hazard: A manifest was deleted, its tag still answers, and `verify` succeeds for a reference that no pull finds.
// class: An observation of one name is taken for that of another.
// members: registries that keep the tags of deleted manifests
// now: the manifest is also read by its digest, which is what the reference names
#[test]
fn a_tag_that_outlives_its_manifest_proves_nothing() -> Test {
    let registry = Registry::default();
    let server = quirky(&registry, |_| None)?;
    let sandbox = Sandbox::new(&server.address)?;
    let applied = sandbox.expect(0, "apply", &sandbox.one())?;
    let key = ("test/shared".to_owned(), published(&applied[1])?.to_owned());
    registry.with(|all| all.manifests.remove(&key)).ok_or("a manifest")?;
    sandbox.expect(100, "verify", &text(&applied))?;
    sandbox.expect(3, "plan --check", &text(&applied))?;
    sandbox.expect(0, "apply", &text(&applied))?;
    sandbox.expect(0, "verify", &text(&applied))?;
    Ok(())
}
