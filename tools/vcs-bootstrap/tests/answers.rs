//! No input causes a panic. Whatever the token and the forge's responses are, the exit status is
//! one of five, and every document is written.

mod common;

use std::error::Error;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::{Arc, Mutex};
use std::thread;

use assert_cmd::assert::Assert;
use common::{ROOT, Sandbox, Test};

const SPEC: &str = "owner: owner, visibility: private, history: {push: fastForward}, \
    rules: [{name: main, branches: [main], require: {statusChecks: [test]}}], \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed], onDestroy: delete";

/// Starts a server that answers every request with the bytes of `answer`.
fn forge(answer: Arc<Mutex<Vec<u8>>>) -> Test<SocketAddr> {
    let listener = TcpListener::bind(("127.76.0.6", 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let answer = answer.lock().map(|bytes| bytes.clone()).unwrap_or_default();
            thread::spawn(move || {
                let _ = client.read(&mut vec![0; 65536]); // the body is not needed
                let _ = client.write_all(&answer); // the client may have closed the connection
            });
        }
    });
    Ok(address)
}

fn assert_whole(run: &Assert, what: &str) {
    let output = run.get_output();
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 2 | 3 | 100 | 111)), "{what}: {code:?} {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    if code != Some(2) {
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        assert_eq!(lines.count(), 2, "{what}: both documents are written");
    }
}

// hazard: A token with a line break ends the program in a panic, and no document is written.
// class: An input causes a panic.
// members: control characters, line breaks, bytes that are not UTF-8, spaces, an empty token
// now: `SecretUnavailable`, exit 100, without quoting it; all documents are written
#[test]
fn every_token_ends_in_a_known_exit_status_with_all_documents() -> Test {
    let answer = b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".to_vec();
    let address = forge(Arc::new(Mutex::new(answer)))?;
    let long = vec![b'h'; 20_000];
    let tokens: [&[u8]; 16] = [
        b"",
        b"\n",
        b"\n\n",
        b"hunter2\n\n",
        b"hunter2\r\n",
        b"hunter2\rx",
        b"hunter2 x",
        b"hunter2\x01",
        b"hunter2\x7f",
        b"\xffhunter2",
        b"hunter2\xc3\xbc",
        b"hunter2: x\r\nHost: y",
        b"'hunter2",
        b"$(hunter2)",
        b"%0ahunter2",
        &long,
    ];
    for token in tokens {
        for kind in ["github", "gitea"] {
            let endpoint =
                format!("{{{kind}: {{url: \"http://{address}\", token: {{env: FORGE_TOKEN}}}}}}");
            let sandbox = Sandbox::new(&endpoint, "")?;
            sandbox.declare("greeter", SPEC)?;
            let what = format!("{kind} {:?}", String::from_utf8_lossy(token));
            for verb in ["plan", "destroy"] {
                let mut program = sandbox.command(verb);
                program.env("ROOT", ROOT).env("FORGE_TOKEN", OsString::from_vec(token.to_vec()));
                let run = program.assert().code(100);
                assert_whole(&run, &what);
                let all = [&run.get_output().stdout[..], &run.get_output().stderr].concat();
                assert!(!String::from_utf8_lossy(&all).contains("hunter2"), "{what} is not quoted");
            }
        }
    }
    Ok(())
}

/// Returns heads and bodies that a forge, a proxy or an attacker may send.
fn answers() -> Vec<Vec<u8>> {
    let bodies: Vec<String> = [
        "", "null", "[]", "{}", "\"x\"", "0", "<html>Sign in</html>", "{\"id\": -1}", "[[[[", "{\"id\":",
        r#"{"id": 1, "clone_url": 5}"#, r#"{"message": "\u0000\u202e\n", "errors": [null, 1, {"field": []}]}"#,
        r#"{"id":18446744073709551615,"private":true,"archived":false,"has_issues":true,"has_wiki":true,"has_projects":true,"clone_url":"http://127.76.0.6:1/x.git","login":"owner","topics":[null],"permissions":5}"#,
        r#"{"login": "owner", "is_admin": true, "public_repos": 18446744073709551615, "owned_private_repos": 18446744073709551615}"#,
        r#"{"login": "../../x?y#z", "state": "active", "role": "admin"}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    let nested = ["[".repeat(100_000), "{\"a\":".repeat(50_000)];
    let statuses = ["200 OK", "404 No", "301 Moved", "403 No", "500 No", "299 ?", "422 No"];
    let headers = [
        "",
        "Location: \u{1}http://\r\n",
        "Retry-After: -1\r\n",
        "Retry-After: 99999999999999999999\r\n",
        "X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 18446744073709551615\r\n",
        "X-Total-Count: 18446744073709551615\r\n",
        "Link: <>; rel=\"next\"\r\n",
        "X-OAuth-Scopes: \u{e9}\r\n",
    ];
    let whole = |status: &str, header: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
    };
    let mut all = Vec::new();
    for (index, body) in bodies.iter().chain(&nested).enumerate() {
        // Combine every body and every header once with each status.
        for (turn, status) in statuses.iter().enumerate() {
            all.push(whole(status, headers[(index + turn) % headers.len()], body));
        }
    }
    all.extend([
        b"".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"HTTP/9.9 1 x\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n\x1f\x8b".to_vec(),
    ]);
    all
}

// hazard: An answer that no forge should send ends the program in a panic.
// class: An input causes a panic.
// members: cut, huge, nested, binary and empty answers, numbers at their limits, wrong types,
// wrong headers
// now: exit 0, 2, 3, 100 or 111; all documents are written
#[test]
fn every_answer_ends_in_a_known_exit_status_with_all_documents() -> Test {
    let answers = Arc::new(Mutex::new(answers()));
    // Retries wait most of the time, so run twelve workers.
    let workers = (0..12).map(|worker| {
        let answers = answers.clone();
        thread::spawn(move || -> Result<(), String> {
            let text = |error: Box<dyn Error>| error.to_string();
            let answer = Arc::new(Mutex::new(Vec::new()));
            let address = forge(answer.clone()).map_err(text)?;
            let kind = ["github", "gitea"][worker % 2];
            let endpoint =
                format!("{{{kind}: {{url: \"http://{address}\", token: {{env: FORGE_TOKEN}}}}}}");
            let sandbox = Sandbox::new(&endpoint, "token").map_err(text)?;
            sandbox.declare("greeter", SPEC).map_err(text)?;
            loop {
                let Some(next) = answers.lock().ok().and_then(|mut answers| answers.pop()) else {
                    return Ok(());
                };
                let verb = ["plan", "apply", "verify", "destroy"][next.len() % 4];
                let what = format!(
                    "{kind} {verb} {:?}",
                    String::from_utf8_lossy(&next).chars().take(300).collect::<String>()
                );
                *answer.lock().map_err(|error| error.to_string())? = next;
                assert_whole(&sandbox.run(verb), &what);
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.join().map_err(|_| "a worker has failed: see above")??;
    }
    Ok(())
}
