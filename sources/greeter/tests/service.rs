//! Starts the program as in a pod, sends requests to it and stops it.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

type Test = Result<(), Box<dyn Error>>;

/// A running greeter and its log.
struct Greeter {
    child: Child,
    log: BufReader<ChildStdout>,
    address: String,
}

impl Greeter {
    fn start(data: &Path) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_greeter"))
            .env("GREETER_DATA", data)
            .env("GREETER_ADDRESS", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let mut line = String::new();
        log.read_line(&mut line)?;
        let address = line.split('"').nth(7).ok_or("no address in the first line")?.to_owned();
        Ok(Self { child, log, address })
    }

    fn get(&self, path: &str) -> Result<String, Box<dyn Error>> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: greeter\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn signal(&self, name: &str) -> Test {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s $0 $1", name, &pid]).status()?;
        if sent.success() { Ok(()) } else { Err("the signal was not sent".into()) }
    }

    /// Waits for the end. Returns the exit status and the log after the first line.
    fn ended(mut self) -> Result<(ExitStatus, String), Box<dyn Error>> {
        let mut log = String::new();
        self.log.read_to_string(&mut log)?;
        Ok((self.child.wait()?, log))
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        let _ = self.child.kill(); // fails if the process has already ended
        let _ = self.child.wait();
    }
}

/// A temporary folder, which is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self, Box<dyn Error>> {
        let path = std::env::temp_dir().join(format!("greeter-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_count_survives_a_restart() -> Test {
    let data = Folder::new("survives")?;
    let first = Greeter::start(&data.0)?;
    assert!(first.get("/")?.ends_with("Hello. You are number 1.\n"));
    assert!(first.get("/healthz")?.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(first.get("/other")?.starts_with("HTTP/1.1 404 "));
    first.signal("TERM")?;
    let (status, log) = first.ended()?;
    assert!(status.success(), "{status}");
    assert!(
        log.ends_with("{\"event\":\"stopped\",\"greeted\":\"1\",\"unfinished\":\"0\"}\n"),
        "{log}"
    );

    let second = Greeter::start(&data.0)?;
    assert!(second.get("/?again")?.ends_with("number 2.\n"));
    second.signal("INT")?;
    assert!(second.ended()?.0.success());
    Ok(())
}

#[test]
fn an_open_request_is_answered_before_the_program_stops() -> Test {
    let data = Folder::new("in-hand")?;
    let greeter = Greeter::start(&data.0)?;
    let mut slow = TcpStream::connect(&greeter.address)?;
    slow.write_all(b"GET / HTTP/1.1\r\n")?;
    greeter.get("/healthz")?; // the slow connection has been accepted before this one
    greeter.signal("TERM")?;
    slow.write_all(b"Host: greeter\r\n\r\n")?;
    let mut answer = String::new();
    slow.read_to_string(&mut answer)?;
    assert!(answer.ends_with("number 1.\n"), "{answer}");
    assert!(greeter.ended()?.0.success());
    Ok(())
}

#[test]
fn the_program_does_not_start_without_its_volume() -> Test {
    let run = Command::new(env!("CARGO_BIN_EXE_greeter"))
        .env("GREETER_DATA", "/nowhere/at/all")
        .env("GREETER_ADDRESS", "127.0.0.1:0")
        .output()?;
    assert!(!run.status.success());
    assert!(String::from_utf8(run.stdout)?.contains("cannot read the counter in /nowhere/at/all"));
    Ok(())
}

#[test]
fn a_second_prepare_changes_no_owner() -> Test {
    let data = Folder::new("prepare")?;
    fs::write(data.0.join("counter"), "7\n")?;
    let ids = Command::new("sh").args(["-c", "echo $(id -u):$(id -g)"]).output()?;
    let owner = String::from_utf8(ids.stdout)?;
    let prepare = || {
        Command::new(env!("CARGO_BIN_EXE_greeter"))
            .arg("prepare")
            .env("GREETER_DATA", &data.0)
            .env("GREETER_OWNER", owner.trim())
            .output()
    };
    assert!(prepare()?.status.success());
    assert!(String::from_utf8(prepare()?.stdout)?.contains("\"given\":\"0\""));
    assert!(Greeter::start(&data.0)?.get("/")?.ends_with("number 8.\n"));
    Ok(())
}
