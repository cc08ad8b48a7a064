//! The forge: Gitea, as a user of its own, and an account for each owner of repositories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::BASE64URL_NOPAD;

use crate::Error;
use crate::place::Place;
use crate::{command, files, http, install};

/// As whom it runs when the lab runs as root, which it refuses.
const USER: &str = "git";

/// The user `git`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    user: u32,
    group: u32,
}

fn folder(place: &Place) -> PathBuf {
    place.directory.join("forge")
}

fn configuration(place: &Place) -> PathBuf {
    folder(place).join("app.ini")
}

/// Every request that it has answered.
pub(crate) fn access_log(place: &Place) -> PathBuf {
    folder(place).join("log/access.log")
}

/// Sees to its user, its folders and its settings.
pub(crate) fn prepare(place: &Place) -> Result<(), Error> {
    let account = account()?;
    let home = folder(place);
    for folder in [home.clone(), home.join("secrets"), home.join("log")] {
        files::folder(&folder)?;
        own(&folder, account)?;
    }
    if account.is_some() {
        // Where the user must get through to: its files, and its program.
        for way in [
            &home,
            &place.program("gitea"),
            &fs::canonicalize(place.program("gitea")).unwrap_or_default(),
        ] {
            passable(way)?;
        }
    }
    for name in ["secret-key", "internal-token", "jwt"] {
        let secret = home.join("secrets").join(name);
        files::secret(&secret, 32, |it| BASE64URL_NOPAD.encode(it))?;
        own(&secret, account)?;
    }
    let user = if account.is_some() {
        USER.to_owned()
    } else {
        name_of(rustix::process::geteuid().as_raw())
    };
    files::settle(&configuration(place), settings(place, &user).as_bytes(), 0o644)?;
    Ok(())
}

fn settings(place: &Place, user: &str) -> String {
    let (home, address) = (folder(place), place.forge());
    let (home, host, port) = (home.display(), address.ip(), address.port());
    let program = fs::canonicalize(place.program("gitea")).unwrap_or_default();
    let assets = program.with_file_name("static");
    let assets = assets.display();
    format!(
        "; Written by `lab up`.
APP_NAME = lab
RUN_USER = {user}
WORK_PATH = {home}
[server]
HTTP_ADDR = {host}
HTTP_PORT = {port}
ROOT_URL = http://{host}:{port}/
STATIC_ROOT_PATH = {assets}
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false
[database]
DB_TYPE = sqlite3
PATH = {home}/data/gitea.db
; One wait for the disk a transaction, not three: its 120 tables are there in half the time.
SQLITE_JOURNAL_MODE = WAL
[security]
INSTALL_LOCK = true
SECRET_KEY_URI = file:{home}/secrets/secret-key
INTERNAL_TOKEN_URI = file:{home}/secrets/internal-token
[oauth2]
ENABLED = false
JWT_SECRET_URI = file:{home}/secrets/jwt
[service]
DISABLE_REGISTRATION = true
[repository]
ROOT = {home}/repositories
DEFAULT_BRANCH = main
[actions]
ENABLED = true
[webhook]
ALLOWED_HOST_LIST = loopback
[cron.update_checker]
ENABLED = false
[log]
MODE = console
LEVEL = Warn
ROOT_PATH = {home}/log
logger.access.MODE = requests
[log.requests]
MODE = file
LEVEL = Info
FILE_NAME = access.log
LOG_ROTATE = false
"
    )
}

/// The command that runs it.
pub(crate) fn command(place: &Place) -> Result<Command, Error> {
    let mut command = gitea(place)?;
    command.arg("web");
    Ok(command)
}

fn gitea(place: &Place) -> Result<Command, Error> {
    let mut command = Command::new(place.program("gitea"));
    command.arg("--config").arg(configuration(place));
    command.current_dir(folder(place)).stdin(Stdio::null());
    // `git` is where the lab itself finds it, which need not be a folder of the system.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/bin:/usr/bin:/bin");
    command.env_clear().env("HOME", folder(place)).env("PATH", path);
    if let Some(account) = account()? {
        command.env("USER", USER).uid(account.user).gid(account.group);
    } else {
        command.env("USER", name_of(rustix::process::geteuid().as_raw()));
    }
    Ok(command)
}

/// Sees to it that `owner` has an account with a token, and names the file that holds the token.
pub(crate) fn token(place: &Place, owner: &str) -> Result<PathBuf, Error> {
    let file = place.secret(&format!("forge-{owner}"));
    if let Some(token) = files::read(&file)?
        && is_accepted(place, owner, &String::from_utf8_lossy(&token))?
    {
        return Ok(file);
    }
    let step = documents::step("forge", "account");
    let address = place.forge();
    if http::get(address, &format!("/api/v1/users/{owner}"), None)?.status != 200 {
        let email = format!("{owner}@lab.invalid");
        let mut create = gitea(place)?;
        create.args(["admin", "user", "create", "--username", owner, "--email", &email]);
        // Nobody logs in with it: what counts is the token.
        create.args(["--random-password", "--must-change-password=false"]);
        command::run(create, "gitea admin user create")?;
    }
    let mut generate = gitea(place)?;
    // A name that no token of before has, since those cannot be read back.
    let name = format!("lab-{}", files::hex(&files::random(8)?));
    generate.args(["admin", "user", "generate-access-token", "--raw", "--scopes", "all"]);
    generate.args(["--username", owner, "--token-name", &name]);
    let token = command::run(generate, "gitea admin user generate-access-token")?;
    files::settle(&file, token.trim_ascii(), 0o600)?;
    step.done(format_args!("{owner}, token in {}", file.display()));
    Ok(file)
}

fn is_accepted(place: &Place, owner: &str, token: &str) -> Result<bool, Error> {
    let authorization = format!("token {}", token.trim());
    let answer = http::get(place.forge(), "/api/v1/user", Some(&authorization))?;
    match answer.status {
        200 => Ok(answer.body.contains(&format!("\"login\":\"{owner}\""))),
        401 => Ok(false),
        status => Err(Error::Answer {
            url: format!("http://{}/api/v1/user", place.forge()),
            answer: status.to_string(),
        }),
    }
}

/// As whom it runs, if not as the user who runs the lab.
pub(crate) fn account() -> Result<Option<Account>, Error> {
    if !install::is_root() {
        return Ok(None);
    }
    if let Some(account) = find(USER)? {
        return Ok(Some(account));
    }
    let mut add = Command::new("useradd");
    add.args([
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        USER,
    ]);
    let said = add.output().map_err(files::cannot("start", Path::new("useradd")))?;
    let no =
        || Error::NoForgeUser { said: String::from_utf8_lossy(&said.stderr).trim().to_owned() };
    find(USER)?.map(Some).ok_or_else(no)
}

fn find(name: &str) -> Result<Option<Account>, Error> {
    let found = passwd()?.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let user = fields.nth(1)?.parse().ok()?;
        Some(Account { user, group: fields.next()?.parse().ok()? })
    });
    Ok(found)
}

fn name_of(user: u32) -> String {
    let table = passwd().unwrap_or_default();
    let mut lines = table.lines().map(|it| it.split(':').collect::<Vec<_>>());
    let found = lines.find(|it| it.get(2) == Some(&user.to_string().as_str()));
    found.map_or_else(|| user.to_string(), |it| it[0].to_owned())
}

fn passwd() -> Result<String, Error> {
    let path = Path::new("/etc/passwd");
    fs::read_to_string(path).map_err(files::cannot("read", path))
}

fn own(path: &Path, account: Option<Account>) -> Result<(), Error> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.user), Some(account.group)).map_err(files::cannot("give away", path))
}

/// Lets another user than root get to `path`.
fn passable(path: &Path) -> Result<(), Error> {
    for folder in path.ancestors().skip(1) {
        let open = fs::metadata(folder).is_ok_and(|it| it.permissions().mode() & 0o001 != 0);
        if !open {
            return Err(Error::Unreachable { folder: folder.to_owned() });
        }
    }
    Ok(())
}
