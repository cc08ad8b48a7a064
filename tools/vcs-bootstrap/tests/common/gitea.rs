//! A real Gitea for one test, on a loopback address and in a temporary folder.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testing::Test;
use testing::proxy::Proxy;
use testing::wait::poll;

/// Loopback address that only these tests use.
const HOST: &str = "127.76.0.1";

/// Time limit for the start of Gitea.
const START_MAX: Duration = Duration::from_secs(60);

/// A running Gitea behind `proxy`.
pub(crate) struct Gitea {
    pub(crate) proxy: Proxy,
    pub(crate) token: String,
    server: Child,
    #[allow(dead_code, reason = "not every test that has this module needs it")]
    address: SocketAddr,
    folder: TempDir,
}

impl Gitea {
    /// Starts a Gitea without an LFS server, which is Gitea's default.
    #[allow(dead_code, reason = "not every test that has this module needs it")]
    pub(crate) fn start() -> Test<Self> {
        Self::start_with("")
    }

    /// Starts a Gitea with an LFS server. Gitea writes a JWT secret into its configuration.
    #[allow(dead_code, reason = "not every test that has this module needs it")]
    pub(crate) fn start_with_lfs() -> Test<Self> {
        Self::start_with("LFS_START_SERVER = true\n")
    }

    /// Starts a Gitea with `more` settings of the section `server`.
    fn start_with(more: &str) -> Test<Self> {
        let prepared = prepared()?;
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let home = folder.path().join("gitea");
        output(Command::new("tar").arg("-xpC").arg(folder.path()).arg("-f").arg(&prepared.home))?;
        let address = TcpListener::bind((HOST, 0))?.local_addr()?;
        let proxy = Proxy::listen((HOST, 0), address)?;
        configure(&home, address, proxy.address, more)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let mut web = gitea(&home)?;
        let server = web.arg("web").stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut forge = Self { proxy, token: prepared.token, server, address, folder };
        let listens = poll(START_MAX, || match forge.server.try_wait() {
            Ok(None) => TcpStream::connect(address).is_ok().then_some(true),
            _ => Some(false),
        });
        if listens != Some(true) {
            return Err(fs::read_to_string(forge.folder.path().join("log"))?.into());
        }
        Ok(forge)
    }

    #[allow(dead_code, reason = "not every test that has this module needs all of it")]
    pub(crate) fn token_of(&self, user: &str) -> Test<String> {
        token(&self.folder.path().join("gitea"), user)
    }

    /// Returns the value of `endpoints.forge`.
    pub(crate) fn endpoint(&self) -> String {
        format!(
            "{{gitea: {{url: \"http://{}\", token: {{env: FORGE_TOKEN}}}}}}",
            self.proxy.address
        )
    }

    /// Sends a request to Gitea directly, without the proxy.
    #[allow(dead_code, reason = "not every test that has this module needs it")]
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&str>) -> Test<Value> {
        let url = format!("http://{}/api/v1{path}", self.address);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "-X", method, &url]);
        curl.args(["-H", &format!("Authorization: token {}", self.token)]);
        if let Some(body) = body {
            curl.args(["-H", "Content-Type: application/json", "-d", body]);
        }
        let output = curl.output()?;
        let text = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            return Err(format!("{method} {path}: {text}").into());
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

impl Drop for Gitea {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Initial state of every Gitea in these tests: database, two users, and a token.
struct Prepared {
    /// A tar archive.
    home: PathBuf,
    token: String,
}

/// Returns the initial state. It is kept in the folder for temporary files, because its creation takes
/// longer than the start of a Gitea, and each test may run in a process of its own. Another Gitea, or
/// another version of this file, has another state.
fn prepared() -> Test<Prepared> {
    let program = fs::canonicalize(program()?)?;
    let written = program.metadata()?.modified()?;
    let mut hasher = DefaultHasher::new();
    (program, written, include_str!("gitea.rs")).hash(&mut hasher);
    let kept = std::env::temp_dir().join(format!("gitea-of-tests-{:016x}", hasher.finish()));
    fs::create_dir_all(&kept)?;
    let lock = File::create(kept.join("lock"))?;
    lock.lock()?; // until the end of this function
    let (home, token) = (kept.join("gitea.tar"), kept.join("token"));
    // The token is written last.
    if !token.exists() {
        fs::write(&token, prepare(&home)?)?;
    }
    Ok(Prepared { home, token: fs::read_to_string(token)? })
}

/// Writes the initial state to the archive `to`, and returns the token.
fn prepare(to: &Path) -> Test<String> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    let home = folder.path().join("gitea");
    fs::create_dir(&home)?;
    if let Some(id) = account()? {
        chown(&home, Some(id), None)?;
    }
    let nowhere = format!("{HOST}:1").parse()?;
    configure(&home, nowhere, nowhere, "")?;
    output(gitea(&home)?.arg("migrate"))?;
    for (name, more) in [("owner", " --admin"), ("guest", "")] {
        let line = format!(
            "create --username {name} --password Ex4mple-0nly --email {name}@example.org --must-change-password=false{more}"
        );
        output(gitea(&home)?.args(["admin", "user"]).args(line.split(' ')))?;
    }
    let token = token(&home, "owner")?;
    output(Command::new("tar").arg("-cC").arg(folder.path()).arg("-f").arg(to).arg("gitea"))?;
    Ok(token)
}

fn token(home: &Path, user: &str) -> Test<String> {
    let line = format!("generate-access-token --username {user} --token-name t --scopes all --raw");
    let said = output(gitea(home)?.args(["admin", "user"]).args(line.split(' ')))?;
    let said = String::from_utf8(said)?;
    Ok(said.lines().last().unwrap_or_default().trim().to_owned())
}

/// Runs a command, checks its exit status, and returns its standard output.
fn output(command: &mut Command) -> Test<Vec<u8>> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(output.stdout)
}

/// Writes the configuration of a Gitea in `home` that listens on `address` behind `proxy`, with `more` settings of
/// the section `server`.
fn configure(home: &Path, address: SocketAddr, proxy: SocketAddr, more: &str) -> Test {
    let user = account()?;
    let file = home.join("app.ini");
    let settings = settings(home, address, proxy, user.is_some())?;
    fs::write(&file, settings.replace("[database]\n", &format!("{more}[database]\n")))?;
    if let Some(id) = user {
        chown(&file, Some(id), None)?;
    }
    Ok(())
}

/// Returns the UID of the user `git` if the tests run as root, because Gitea rejects root.
fn account() -> Test<Option<u32>> {
    let id = |arguments: &[&str]| -> Test<u32> {
        let output = Command::new("id").args(arguments).output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.trim().parse().map_err(|_| "as root, this needs a user `git`: useradd -m git")?)
    };
    Ok(if id(&["-u"])? == 0 { Some(id(&["-u", "git"])?) } else { None })
}

fn program() -> Test<PathBuf> {
    let folders = std::env::var_os("LAB_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folders.into_iter().chain(std::env::split_paths(&path));
    let found = folders.map(|folder| folder.join("gitea")).find(|file| file.is_file());
    Ok(found.ok_or("gitea is neither in LAB_BIN nor in PATH: run ./tasks/test, which brings it")?)
}

fn gitea(home: &Path) -> Test<Command> {
    let mut command = Command::new(program()?);
    command.arg("--config").arg(home.join("app.ini")).current_dir(home).stdin(Stdio::null());
    command.env_clear().env("HOME", home).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    // Pass on the setting of Go's garbage collector, because Gitea starts a process for each hook.
    command.envs(std::env::var_os("GOGC").map(|value| ("GOGC", value)));
    if let Some(id) = account()? {
        command.env("USER", "git").uid(id);
    }
    Ok(command)
}

fn settings(home: &Path, address: SocketAddr, proxy: SocketAddr, as_git: bool) -> Test<String> {
    let user = if as_git { "git".to_owned() } else { std::env::var("USER")? };
    let beside = |program: PathBuf| program.with_file_name("static");
    let assets = [beside(program()?), beside(fs::canonicalize(program()?)?)];
    let assets = assets.iter().find(|folder| folder.is_dir());
    let assets = assets.ok_or("no folder `static` (options, templates, public) beside gitea")?;
    Ok(format!(
        "RUN_USER = {user}
WORK_PATH = {home}
[server]
HTTP_ADDR = {host}
HTTP_PORT = {port}
ROOT_URL = http://{proxy}/
STATIC_ROOT_PATH = {assets}
DISABLE_SSH = true
OFFLINE_MODE = true
[database]
DB_TYPE = sqlite3
PATH = {home}/gitea.db
[security]
INSTALL_LOCK = true
[oauth2]
ENABLED = false
[repository]
ROOT = {home}/repositories
[cron.update_checker]
ENABLED = false
[log]
LEVEL = Warn
",
        home = home.display(),
        host = address.ip(),
        port = address.port(),
        assets = assets.display(),
    ))
}
