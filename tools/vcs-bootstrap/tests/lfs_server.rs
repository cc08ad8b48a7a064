//! Uploads of files in Git LFS with the real git-lfs, to an LFS server of these tests at the mock of GitHub. They
//! need `git-lfs`.

mod common;
#[path = "common/lfs.rs"]
mod lfs;
#[path = "common/mock.rs"]
mod mock;
#[path = "common/proxies.rs"]
mod proxies;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::{ROOT, Test, ready, status, stderr, steps};
use data_encoding::BASE64;
use mock::Setup;
use mock::http::TOKEN;
use proxies::{TlsProxy, recorder};
use serde_json::{Value, json};
use testing::git::git;
use testing::http::{Request, Response, Server};
use testing::wait::poll;

const SPEC: &str = "owner: owner, history: {push: fastForward}";
const LFS: &str = "application/vnd.git-lfs+json";
/// Credential of the answer for the host that stores objects.
const SIGNED: &str = "RemoteAuth signed";

/// LFS server that records its requests, with the objects that it has.
#[derive(Clone, Default)]
struct Objects(Arc<Mutex<Seen>>);

/// Requests, and the objects by their digest.
type Seen = (Vec<Request>, BTreeMap<String, Vec<u8>>);

impl Objects {
    fn with<T>(&self, with: impl FnOnce(&mut Seen) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the first line of every request since the last call, without the digests of objects.
    fn take(&self) -> Vec<String> {
        let requests = self.with(|(seen, _)| std::mem::take(seen));
        let line = |request: &Request| {
            let (_, below) = request.path.split_once("/info/lfs").unwrap_or(("", &request.path));
            let below = below.split('/').filter(|part| part.len() != 64);
            format!("{} {}", request.method, below.collect::<Vec<_>>().join("/"))
        };
        requests.iter().map(line).collect()
    }

    /// Answers a request to the server. `actions` describes the upload of an object, by its digest.
    fn answer(&self, request: &Request, actions: impl Fn(&str) -> Value) -> Response {
        self.with(|(seen, objects)| {
            seen.push(request.clone());
            let basic = format!("x-access-token:{TOKEN}");
            if request.header("authorization")
                != format!("Basic {}", BASE64.encode(basic.as_bytes()))
            {
                return Response::new(401, "").with("WWW-Authenticate", "Basic realm=\"lfs\"");
            }
            if request.method == "PUT" {
                let oid = request.path.rsplit('/').next().unwrap_or_default();
                objects.insert(oid.to_owned(), request.body.clone());
                return Response::new(200, "");
            }
            if !request.path.ends_with("/objects/batch") {
                return Response::new(200, "");
            }
            let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let told = asked["objects"].as_array().into_iter().flatten().map(|object| {
                let oid = object["oid"].as_str().unwrap_or_default();
                let has = objects.contains_key(oid);
                let actions = if has { Value::Null } else { actions(oid) };
                json!({"oid": oid, "size": object["size"], "actions": actions})
            });
            let body = json!({"transfer": "basic", "objects": told.collect::<Vec<_>>()});
            Response::new(200, body.to_string()).with("Content-Type", LFS)
        })
    }
}

/// Starts a forge with an LFS server. `actions` describes the upload of an object, by the address of the forge
/// and the digest.
fn setup(actions: impl Fn(&str, &str) -> Value + Send + Sync + 'static) -> Test<(Setup, Objects)> {
    let (setup, objects) = (Setup::new(SPEC)?, Objects::default());
    let (server, address) = (objects.clone(), setup.address.to_string());
    let answer = move |request: &Request| server.answer(request, |oid| actions(&address, oid));
    setup.state(|state| state.lfs = Some(Arc::new(answer)));
    Ok((setup, objects))
}

/// Describes an upload to the forge itself.
fn at_forge(forge: &str, oid: &str) -> Value {
    json!({"upload": {"href": format!("http://{forge}/owner/greeter.git/info/lfs/objects/{oid}")}})
}

/// Returns the commit of `main` at the forge, or nothing.
fn main_of(setup: &Setup) -> String {
    git(&setup.bare("greeter"), &["rev-parse", "--verify", "--quiet", "main"]).unwrap_or_default()
}

fn heads_of(server: &Server) -> String {
    let requests = server.seen();
    if requests.is_empty() { String::new() } else { format!("{requests:?}") }
}

#[test]
fn objects_are_uploaded_before_the_push_and_never_again() -> Test {
    let (setup, objects) = setup(at_forge)?;
    let (large, other) = (vec![7; 3_000_000], b"other".to_vec());
    // Configuration that would send uploads elsewhere.
    let elsewhere = recorder("127.76.0.4", 401, ("WWW-Authenticate", "Basic realm=\"other\""))?;
    let url = format!("http://{}/lfs", elsewhere.address);
    for name in ["lfs.url", "lfs.pushUrl", "remote.origin.lfsUrl", "lfs.standaloneTransferAgent"] {
        setup.sandbox.git(&["config", name, &url])?;
    }
    lfs::commit(&setup.sandbox, "a model.bin", &large)?;
    lfs::commit(&setup.sandbox, "copy.bin", &large)?;
    lfs::commit(&setup.sandbox, "empty.bin", b"")?;
    let tip = lfs::commit(&setup.sandbox, "other.bin", &other)?;
    let plan = setup.run("plan --check").code(3);
    let (said, plan) = (stderr(&plan), status(&plan)?);
    let upload = json!({"action": "uploadLfsObjects", "objects": 2, "bytes": 3_000_005});
    let index = steps(&plan).iter().position(|step| step == "uploadLfsObjects").ok_or("a step")?;
    assert_eq!((&plan["plan"][index], &*steps(&plan)[index + 1]), (&upload, "push"));
    assert!(said.contains("upload 2 objects of Git LFS: 3000005 bytes"), "{said}");
    assert_eq!(objects.take(), [""; 0], "a plan asks nothing of the LFS server");

    setup.run("apply").success();
    assert_eq!(main_of(&setup), tip);
    let stored = objects.with(|(_, objects)| objects.clone());
    assert_eq!(stored, BTreeMap::from([(lfs::oid(&large), large), (lfs::oid(&other), other)]));
    let requests = objects.take();
    assert_eq!(requests.iter().filter(|line| line.starts_with("PUT")).count(), 2, "{requests:?}");
    for verb in ["plan --check", "apply", "verify"] {
        setup.run(verb).success();
    }
    assert_eq!(objects.take(), [""; 0], "nothing is left to upload");

    // A commit without a pointer needs no LFS server, and a new pointer only its own object.
    setup.sandbox.commit("without a pointer")?;
    setup.run("apply").success();
    assert_eq!(objects.take(), [""; 0]);
    let tip = lfs::commit(&setup.sandbox, "copy.bin", b"changed")?;
    setup.run("apply").success();
    assert_eq!(main_of(&setup), tip);
    assert_eq!(objects.take(), ["POST /objects/batch", "POST /objects/batch", "PUT /objects"]);
    // `git lfs prune` deletes what was pushed, and a revert names it again.
    fs::remove_dir_all(setup.sandbox.path().join(".git/lfs"))?;
    setup.sandbox.git(&["revert", "--no-edit", "HEAD"])?;
    setup.run("apply").success();
    assert_eq!(heads_of(&elsewhere), "");
    setup.assert_described();
    Ok(())
}

#[test]
fn objects_that_this_clone_lacks_are_named_before_anything_is_created() -> Test {
    let (setup, objects) = setup(at_forge)?;
    lfs::commit(&setup.sandbox, "here.bin", b"here")?;
    lfs::commit(&setup.sandbox, "absent.bin", b"absent")?;
    lfs::commit(&setup.sandbox, "truncated.bin", b"truncated")?;
    fs::remove_file(lfs::stored(&setup.sandbox, b"absent"))?;
    fs::write(lfs::stored(&setup.sandbox, b"truncated"), b"trunc")?;
    for verb in ["plan", "apply"] {
        let said = setup.assert_refused(verb, "HistoryIncomplete")?;
        assert!(said.contains("absent.bin, truncated.bin"), "{said}");
        assert!(said.contains("git lfs fetch --all") && !said.contains("here.bin"), "{said}");
    }
    assert_eq!((objects.take(), setup.state(|state| state.repository.clone())), (vec![], None));
    Ok(())
}

// hazard: Files in Git LFS are uploaded to the forge, and every clone looks for them at another server.
// class: A part is taken for the whole.
// members: `lfs.url` and `remote.*.lfsurl` of `.lfsconfig`, the server of another repository of the same forge
// now: `ForeignOrigin`, exit 100, before anything is made; the other server sees no request
#[test]
fn a_committed_lfsconfig_of_another_server_is_an_error_and_gets_no_token() -> Test {
    let other = recorder("127.76.0.4", 401, ("WWW-Authenticate", "Basic realm=\"other\""))?;
    for (key, of_forge, refused) in [
        ("lfs.url", None, true),
        ("remote.origin.lfsurl", None, true),
        ("lfs.url", Some("owner/another"), true),
        ("lfs.url", Some("owner/greeter"), false),
        ("lfs.pushurl", None, false),
    ] {
        let (setup, objects) = setup(at_forge)?;
        lfs::commit(&setup.sandbox, "model.bin", b"content")?;
        let url = match of_forge {
            Some(place) => format!("http://{}/{place}.git/info/lfs", setup.address),
            None => format!("http://{}/lfs", other.address),
        };
        setup.sandbox.git(&["config", "--file", ".lfsconfig", key, &url])?;
        // The file counts once it is in a commit.
        setup.run("plan").success();
        setup.sandbox.git(&["add", ".lfsconfig"])?;
        setup.sandbox.commit("server")?;
        if refused {
            for verb in ["plan", "apply"] {
                let said = setup.assert_refused(verb, "ForeignOrigin")?;
                assert!(said.contains(key) && said.contains("model.bin"), "{said}");
            }
            assert_eq!(objects.take(), [""; 0]);
        } else {
            setup.run("apply").success();
            assert!(!objects.take().is_empty(), "{key} {url}");
        }
    }
    assert_eq!(heads_of(&other), "");
    Ok(())
}

#[test]
fn a_host_that_stores_objects_gets_its_own_credential_alone() -> Test {
    let other = Server::start(("127.76.0.4", 0), |_| Some(Response::new(200, "")))?;
    let address = other.address.clone();
    let (setup, _) = setup(move |_, oid| {
        let header = json!({"Authorization": SIGNED});
        let upload = json!({"href": format!("http://{address}/s3/{oid}?X-Amz-Signature=0"), "header": header});
        let verify = json!({"href": format!("http://{address}/verify"), "header": header});
        json!({"upload": upload, "verify": verify})
    })?;
    let tip = lfs::commit(&setup.sandbox, "model.bin", b"content")?;
    setup.run("apply").success();
    assert_eq!(main_of(&setup), tip);
    let seen = other.take();
    let kinds: Vec<_> = seen.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(kinds, ["PUT", "POST"]);
    assert_eq!(seen[0].body, b"content");
    assert!(seen.iter().all(|request| request.header("authorization") == SIGNED), "{seen:?}");
    Ok(())
}

// hazard: An answer of the forge's LFS server has git-lfs send the token to another host.
// class: A credential has no origin.
// members: Gitea copies the login into its answer, a host that demands a login, a redirect of the LFS server
// now: an error before the push; the other host gets no token
#[test]
fn no_answer_of_the_lfs_server_sends_the_token_to_another_host() -> Test {
    let login = BASE64.encode(format!("x-access-token:{TOKEN}").as_bytes());
    for (copies, reason, requests) in [(true, "ForeignOrigin", 0), (false, "Unauthorized", 1)] {
        let other = recorder("127.76.0.4", 401, ("WWW-Authenticate", "Basic realm=\"other\""))?;
        let (address, copied) = (other.address.clone(), login.clone());
        let (setup, _) = setup(move |_, oid| {
            let header = if copies {
                json!({"Authorization": format!("Basic {copied}")})
            } else {
                json!({})
            };
            json!({"upload": {"href": format!("http://{address}/{oid}"), "header": header}})
        })?;
        lfs::commit(&setup.sandbox, "model.bin", b"content")?;
        let run = setup.run("apply").code(100);
        let said = stderr(&run);
        assert_eq!(ready(&status(&run)?), ("False", reason), "{said}");
        assert!(!said.contains(TOKEN) && !said.contains(&login), "{said}");
        assert_eq!(main_of(&setup), "", "no pointer is pushed without its object");
        let heads = heads_of(&other);
        assert!(!heads.contains(TOKEN) && !heads.contains(&login), "{heads}");
        assert!(other.seen().len() >= requests && (requests > 0 || heads.is_empty()), "{heads}");
    }
    for code in [301, 302, 307, 308] {
        let other = recorder("127.76.0.4", 401, ("WWW-Authenticate", "Basic realm=\"other\""))?;
        let setup = Setup::new(SPEC)?;
        let to = format!("http://{}/x.git/info/lfs/objects/batch", other.address);
        let answer = move |_: &Request| Response::new(code, "").with("Location", to.clone());
        setup.state(|state| state.lfs = Some(Arc::new(answer)));
        lfs::commit(&setup.sandbox, "model.bin", b"content")?;
        setup.run("apply").code(100);
        assert_eq!((heads_of(&other), main_of(&setup)), (String::new(), String::new()));
    }
    Ok(())
}

#[test]
fn refused_upload_has_its_own_reason_and_leaves_the_history_unpushed() -> Test {
    let object = |code: u16, message: &str| json!({"objects": [{"oid": lfs::oid(b"content"), "size": 7, "error": {"code": code, "message": message}}]});
    for (code, body, reason) in [
        (404, json!({"message": "Not Found"}), "UnsupportedByForge"),
        (403, json!({"message": "Git LFS is disabled for this repository."}), "UnsupportedByForge"),
        (403, json!({"message": "This repository is over its data quota."}), "QuotaExceeded"),
        (401, json!({"message": "Credentials needed"}), "Unauthorized"),
        (200, object(422, "Size must be less than or equal to 2"), "FileTooLarge"),
        (200, json!({"objects": []}), "InvalidResponse"),
    ] {
        let setup = Setup::new(SPEC)?;
        let text = body.to_string();
        let answer = move |_: &Request| Response::new(code, text.clone()).with("Content-Type", LFS);
        setup.state(|state| state.lfs = Some(Arc::new(answer)));
        lfs::commit(&setup.sandbox, "model.bin", b"content")?;
        let run = setup.run("apply").code(100);
        assert_eq!(ready(&status(&run)?), ("False", reason), "{}", stderr(&run));
        assert_eq!(main_of(&setup), "", "{reason}");
    }
    Ok(())
}

// hazard: Ctrl-C during a long upload leaves git-lfs running, with the token.
// class: A limit ends one process of several.
// members: SIGINT, and SIGKILL of the program alone
// now: git-lfs ends with the program, and the next run uploads the rest
#[test]
fn an_interrupted_upload_ends_at_once_and_the_next_run_finishes_it() -> Test {
    for signal in ["INT", "KILL"] {
        let (mut setup, objects) = setup(at_forge)?;
        let tip = lfs::commit(&setup.sandbox, "model.bin", &vec![7; 40_000_000])?;
        // A git-lfs that records its process.
        let real = lfs::programs(&setup.sandbox, &["git-lfs"])?.join("git-lfs").read_link()?;
        let (folder, pid) =
            (setup.sandbox.path().join(".git/spy"), setup.sandbox.path().join(".git/pid"));
        fs::create_dir_all(&folder)?;
        let record = format!("[ \"$1\" != push ] || echo $$ >'{}'", pid.display());
        let script = format!("#!/bin/sh\n{record}\nexec '{}' \"$@\"\n", real.display());
        fs::write(folder.join("git-lfs"), script)?;
        fs::set_permissions(folder.join("git-lfs"), fs::Permissions::from_mode(0o755))?;
        let path = [folder.as_os_str(), setup.sandbox.programs.as_os_str()];
        setup.sandbox.programs = std::env::join_paths(
            path.map(ToOwned::to_owned).iter().flat_map(std::env::split_paths),
        )?;
        // The upload takes a second for each megabyte.
        let slow = testing::http::listen(("127.76.0.4", 0), |stream| {
            let mut chunk = vec![0; 1 << 20];
            while std::io::Read::read(&mut &stream, &mut chunk).is_ok_and(|read| read > 0) {
                std::thread::sleep(Duration::from_millis(200));
            }
        })?;
        let server = objects.clone();
        let to = move |oid: &str| json!({"upload": {"href": format!("http://{slow}/{oid}")}});
        let answer = move |request: &Request| server.answer(request, to);
        let quick = setup.state(|state| state.lfs.replace(Arc::new(answer)));

        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vcs-bootstrap"));
        command.args(["apply", "project.yaml", "repository.yaml"]).env_clear();
        command.envs([("ROOT", ROOT), ("FORGE_TOKEN", TOKEN)]).env("PATH", &setup.sandbox.programs);
        command.current_dir(setup.sandbox.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = command.spawn()?;
        let limit = Duration::from_secs(30);
        let started = || fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'));
        let lfs = poll(limit, started).ok_or("git-lfs starts")?;
        std::thread::sleep(Duration::from_millis(500));
        Command::new("kill").args([format!("-{signal}"), program.id().to_string()]).status()?;
        poll(limit, || program.try_wait().ok().flatten()).ok_or("the program ends")?;
        let process = format!("/proc/{}/stat", lfs.trim());
        let gone = || {
            let state = fs::read_to_string(&process).unwrap_or_default();
            (state.is_empty() || state.contains(") Z ")).then_some(())
        };
        poll(limit, gone).ok_or("git-lfs ends")?;
        assert_eq!(main_of(&setup), "");

        setup.state(|state| state.lfs = quick);
        setup.run("apply").success();
        assert_eq!(main_of(&setup), tip);
    }
    Ok(())
}

#[test]
fn objects_reach_the_forge_through_the_proxy_of_the_api_and_git() -> Test {
    const HOST: &str = "forge.example";
    /// Root key, because the one of the other tests is published, and this forge is not on this machine.
    const KEY: &str = "b3a1c29d5e0f4786a9b8c7d6e5f40312233445566778899aabbccddeeff00717";
    let setup = Setup::with(SPEC, |_| {
        format!("{{github: {{url: \"https://{HOST}/api/v3\", token: {{env: FORGE_TOKEN}}}}}}")
    })?;
    let objects = Objects::default();
    let server = objects.clone();
    let upload = |oid: &str| json!({"upload": {"href": format!("https://{HOST}/owner/greeter.git/info/lfs/objects/{oid}")}});
    let answer = move |request: &Request| server.answer(request, upload);
    setup.state(|state| {
        state.clone_host = Some(format!("https://{HOST}"));
        state.lfs = Some(Arc::new(answer));
    });
    let proxy = TlsProxy::start(HOST, setup.address, true)?;
    let authority = setup.sandbox.path().join("ca.pem");
    fs::write(&authority, &proxy.authority)?;
    let tip = lfs::commit(&setup.sandbox, "model.bin", b"content")?;
    let (address, authority) =
        (format!("http://user:word@{}", proxy.address), authority.display().to_string());
    let variables = [("ROOT", KEY), ("https_proxy", &address), ("SSL_CERT_FILE", &authority)];
    setup.sandbox.run_with("apply", &variables).success();
    assert_eq!(main_of(&setup), tip);
    assert_eq!(objects.with(|(_, objects)| objects.len()), 1);
    let connections = proxy.take_seen();
    assert!(connections.iter().all(|(line, _)| *line == format!("CONNECT {HOST}:443")));
    let all = format!("{connections:?}");
    assert!(!all.contains(TOKEN) && !all.contains(&BASE64.encode(TOKEN.as_bytes())), "{all}");
    Ok(())
}
