//! Runs all five programs against services that are away for three seconds, and against services whose
//! certificate a private authority has signed. Build the programs first:
//! `cargo build --workspace --bins`.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use repository_tests::programs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

type Test<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const STRANGER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
/// Longest time until a program ends. One that rejects a certificate may try for longer, and is killed.
const RUN_MAX: Duration = Duration::from_secs(20);

/// Each program with its arguments, so that its first request goes to the service.
const PROGRAMS: [(&str, &[&str]); 5] = [
    ("vcs-bootstrap", &["plan"]),
    ("artifact-attest", &["plan"]),
    ("talos-provision", &["plan"]),
    ("flux-seed", &["plan"]),
    ("data-drain", &["restore", "--to", "restored"]),
];

/// Returns the documents of one project, whose services are all at `url`.
fn documents(url: &str) -> String {
    let document = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "holistic/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let token = json!({"env": "TOKEN"});
    let endpoints = json!({
        "forge": {"gitea": {"url": url, "token": token}},
        "registry": {"url": url, "token": token},
        "cloud": {"hetzner": {"url": url, "token": token}},
        "store": {"s3": {"url": url, "region": "a", "bucket": "b", "credentials": {"env": "S3"}}},
        "flux": {"url": url},
    });
    let project = json!({
        "root": {"env": "ROOT"}, "recipients": [{"name": "founder", "age": STRANGER}],
        "endpoints": endpoints,
    });
    let artifact = json!({
        "project": "p", "source": "https://example.org/a", "sourceCheck": "skip",
        "manifests": {"path": "./app", "repository": "app"},
    });
    let cluster = json!({
        "project": "p", "talos": "v1.13.9", "kubernetes": "v1.36.3",
        "certificates": {"notBefore": "2026-11-01", "years": 10},
        "pools": [{"name": "control", "role": "controlplane", "count": 1, "type": "cx23",
                   "locations": ["fsn1"]}],
                "firewall": {"talos": ["anywhere"]},
    });
    let delivery = json!({"cluster": "prod", "artifact": "app", "flux": {"version": "2.9.5"}});
    let drain = json!({
        "cluster": "prod", "sources": [{"forge": "code"}], "recipients": ["founder"],
        "readBack": "full",
    });
    let all = [
        document("Project", "p", project),
        document("Repository", "code", json!({"project": "p", "owner": "someone"})),
        document("Artifact", "app", artifact),
        document("Cluster", "prod", cluster),
        document("Delivery", "prod", delivery),
        document("Drain", "prod", drain),
    ];
    all.iter().flat_map(|document| [document.to_string(), "\n".to_owned()]).collect()
}

/// A Git repository with one folder of manifests.
fn checkout() -> Test<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("app"))?;
    fs::write(folder.path().join("app/map.yaml"), "kind: ConfigMap\n")?;
    for arguments in [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-qm", "a"]] {
        let git = Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
            .args(arguments)
            .current_dir(folder.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()?;
        if !git.status.success() {
            return Err(String::from_utf8_lossy(&git.stderr).into());
        }
    }
    Ok(folder)
}

fn spawn(
    (program, arguments): (&str, &[&str]),
    input: &str,
    folder: &Path,
    variables: &[(&str, &str)],
) -> Test<Child> {
    // Outside of the checkout, which must have no changes.
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), input)?;
    let child = Command::new(programs().join(program))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .envs([("ROOT", ROOT), ("TOKEN", "a-token-of-tests")])
        .env("S3", r#"{"accessKeyId": "a", "secretAccessKey": "b"}"#)
        .envs(variables.iter().copied())
        .stdin(fs::File::open(file.path())?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    child.map_err(|error| format!("{program}: {error}").into())
}

/// Waits for the end of a program, and kills a program that takes longer than [`RUN_MAX`].
fn end(mut child: Child) -> Test<Output> {
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > RUN_MAX {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}

/// Request lines that a service has received.
type Seen = Arc<Mutex<Vec<String>>>;

fn seen(requests: &Seen) -> Vec<String> {
    requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Answers every request with 404 for the rest of the test, over TLS if there is a configuration.
fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Seen {
    let requests = Seen::default();
    let shared = requests.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (shared, tls) = (shared.clone(), tls.clone());
            thread::spawn(move || answer(client, tls, &shared));
        }
    });
    requests
}

fn answer(client: TcpStream, tls: Option<Arc<ServerConfig>>, requests: &Seen) -> Test {
    match tls {
        None => exchange(client, requests),
        Some(tls) => exchange(StreamOwned::new(ServerConnection::new(tls)?, client), requests),
    }
}

fn exchange(mut client: impl Read + Write, requests: &Seen) -> Test {
    let mut line = String::new();
    let mut reader = BufReader::new(&mut client);
    reader.read_line(&mut line)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(line.trim().to_owned());
    let head = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    client.write_all(head.as_bytes())?;
    Ok(client.flush()?)
}

/// Runs `test` for each program, at the same time.
fn each_program(test: impl Fn((&str, &[&str]), usize) -> Test + Copy + Send + 'static) -> Test {
    let threads = PROGRAMS.iter().enumerate();
    let threads = threads.map(|(index, program)| thread::spawn(move || test(*program, index)));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_| "a program has failed: see above")??;
    }
    Ok(())
}

// hazard: A service restarts during a run, and the run fails although it had time to wait.
// class: A short outage is an error.
// members: the forge, the registries of artifacts and of Flux, the cloud, the object store
// now: refused connections are tried again for 5 seconds on this machine, for 15 elsewhere, and for
// 180 at the cloud
#[test]
fn every_program_waits_for_a_service_that_is_away_for_three_seconds() -> Test {
    each_program(|program, index| {
        // An address of its own, at which no other process of this test listens.
        let address = format!("127.79.0.{}:8080", index + 1);
        let folder = checkout()?;
        let began = Instant::now();
        let child = spawn(program, &documents(&format!("http://{address}")), folder.path(), &[])?;
        thread::sleep(Duration::from_secs(3).saturating_sub(began.elapsed()));
        let requests = serve(TcpListener::bind(&address)?, None);
        let output = end(child)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!seen(&requests).is_empty(), "{}: {said}", program.0);
        Ok(())
    })
}

// hazard: A program sends the token of a service on this machine to the proxy of the environment.
// class: A credential has no origin.
// members: http_proxy, https_proxy, all_proxy, in both spellings; found in talos-provision
// now: plain HTTP, which is allowed on this machine only, uses no proxy
#[test]
fn no_proxy_receives_a_request_to_a_service_on_this_machine() -> Test {
    each_program(|program, _| {
        let [service, proxy] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
        let (service, proxy) = (service?, proxy?);
        let url = format!("http://{}", service.local_addr()?);
        let via = format!("http://{}", proxy.local_addr()?);
        let (requests, proxied) = (serve(service, None), serve(proxy, None));
        let names =
            ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        let variables = names.map(|name| (name, via.as_str()));
        let folder = checkout()?;
        let output = end(spawn(program, &documents(&url), folder.path(), &variables)?)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(seen(&proxied), [""; 0], "{}: {said}", program.0);
        assert!(!seen(&requests).is_empty(), "{}: {said}", program.0);
        Ok(())
    })
}

/// A private authority, in a folder of its own.
struct Authority {
    folder: TempDir,
    tls: Arc<ServerConfig>,
}

impl Authority {
    /// Creates an authority, and a certificate of it for 127.0.0.1.
    fn new() -> Test<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("ca.pem"), certificate.pem())?;
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let leaf =
            CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(leaf.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der())?,
            )?;
        Ok(Self { folder, tls: Arc::new(config) })
    }

    fn file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

/// Runs a program against a service of `authority`, and returns the requests and the messages.
fn run_with(
    program: (&str, &[&str]),
    authority: &Authority,
    variable: (&str, &str),
) -> Test<(Vec<String>, Output)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("https://{}", listener.local_addr()?);
    let requests = serve(listener, Some(authority.tls.clone()));
    let folder = checkout()?;
    let output = end(spawn(program, &documents(&url), folder.path(), &[variable])?)?;
    Ok((seen(&requests), output))
}

// hazard: A company's registry or forge has a certificate of the company's own authority, and one
// program of five does not trust it, although git, Nix and curl do.
// class: A setting of the machine reaches some of the clients.
// members: SSL_CERT_FILE, SSL_CERT_DIR; ureq, octocrab, the SDK of S3
// now: all clients trust what the variables name, otherwise the system's authorities; a certificate of
// another authority is `Untrusted`, exit 100
#[test]
fn every_program_trusts_the_authorities_that_a_variable_names_and_no_others() -> Test {
    each_program(|program, _| {
        let (ours, other) = (Authority::new()?, Authority::new()?);
        let directory = ours.folder.path().display().to_string();
        for variable in [("SSL_CERT_FILE", ours.file()), ("SSL_CERT_DIR", directory)] {
            let (requests, output) = run_with(program, &ours, (variable.0, &variable.1))?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!requests.is_empty(), "{} with {}: {said}", program.0, variable.0);
        }
        let (requests, output) = run_with(program, &ours, ("SSL_CERT_FILE", &other.file()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(requests.is_empty(), "{}: {requests:?} {said}", program.0);
        for part in ["is not trusted", "SSL_CERT_FILE"] {
            assert!(said.contains(part), "{}: the help fits the cause: {said}", program.0);
        }
        // A plan of flux-seed shows digests that it could not read as unknown.
        if program.0 != "flux-seed" {
            assert_eq!(output.status.code(), Some(100), "{}: {said}", program.0);
        }
        Ok(())
    })
}

/// The two programs that read a registry.
#[test]
fn a_registry_of_the_authority_in_its_document_is_trusted() -> Test {
    for (program, at) in [("artifact-attest", "/registry"), ("flux-seed", "/flux")] {
        let (ours, other) = (Authority::new()?, Authority::new()?);
        for (authority, is_trusted) in [(&ours, true), (&other, false)] {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let url = format!("https://{}", listener.local_addr()?);
            let requests = serve(listener, Some(ours.tls.clone()));
            let input = documents(&url);
            let (project, others) = input.split_once('\n').ok_or("one document")?;
            let mut project: Value = serde_json::from_str(project)?;
            let registry = project.pointer_mut(&format!("/spec/endpoints{at}"));
            let registry = registry.ok_or("no registry")?;
            registry["certificateAuthority"] = fs::read_to_string(authority.file())?.into();
            let folder = checkout()?;
            let input = format!("{project}\n{others}");
            let output = end(spawn((program, &["plan"]), &input, folder.path(), &[])?)?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(!seen(&requests).is_empty(), is_trusted, "{program}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_variable_that_names_no_certificate_is_an_error_that_names_the_variable() -> Test {
    each_program(|program, _| {
        let authority = Authority::new()?;
        let variable = ("SSL_CERT_FILE", "/missing/ca.pem");
        let (requests, output) = run_with(program, &authority, variable)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(requests.is_empty(), "{}: {requests:?}", program.0);
        assert!(said.contains("SSL_CERT_FILE=/missing/ca.pem"), "{}: {said}", program.0);
        Ok(())
    })
}
