//! Runs the forge: Gitea, as the user `git`, with an account for each owner of repositories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::BASE64URL_NOPAD;

use crate::Error;
use crate::paths::LabPaths;
use crate::{command, files, http, install};

/// User that runs Gitea when the lab runs as root, because Gitea exits when root starts it.
const USER: &str = "git";

/// Numeric ids of the user `git`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    user: u32,
    group: u32,
}

fn folder(paths: &LabPaths) -> PathBuf {
    paths.directory.join("forge")
}

fn configuration(paths: &LabPaths) -> PathBuf {
    folder(paths).join("app.ini")
}

/// Returns the log with one line for each request that Gitea has answered.
pub(crate) fn access_log(paths: &LabPaths) -> PathBuf {
    folder(paths).join("log/access.log")
}

/// Creates Gitea's user, folders, secrets and settings, unless they exist.
pub(crate) fn prepare(paths: &LabPaths) -> Result<(), Error> {
    let account = account()?;
    let home = folder(paths);
    for folder in [home.clone(), home.join("secrets"), home.join("log")] {
        files::folder(&folder)?;
        give_to(&folder, account)?;
    }
    if account.is_some() {
        // The user must be able to enter every folder above Gitea's files and Gitea's program.
        for path in [
            &home,
            &paths.program("gitea"),
            &fs::canonicalize(paths.program("gitea")).unwrap_or_default(),
        ] {
            check_reachable(path)?;
        }
    }
    for name in ["secret-key", "internal-token", "jwt"] {
        let secret = home.join("secrets").join(name);
        files::secret(&secret, 32, |bytes| BASE64URL_NOPAD.encode(bytes))?;
        give_to(&secret, account)?;
    }
    let settings = settings(paths, account.is_some());
    files::settle(&configuration(paths), settings.as_bytes(), 0o644)?;
    Ok(())
}

/// Returns the folder of Gitea's files, which is beside the program to which `link` refers. That program can be a link
/// itself: Nix keeps the program and its files apart.
fn assets(link: &Path) -> PathBuf {
    let program = fs::read_link(link).unwrap_or_default();
    let folder = link.parent().unwrap_or(link).join(program.parent().unwrap_or(&program));
    fs::canonicalize(folder).unwrap_or_default().join("static")
}

/// Returns Gitea's settings, with the name of its user if that is not the user of the lab.
fn settings(paths: &LabPaths, has_account: bool) -> String {
    // Without `RUN_USER`, Gitea takes the name that the system gives to the current user. A name of ours could differ,
    // because /etc/passwd lacks the users of a directory such as LDAP, and Gitea ends when the names differ
    // (`mustCurrentRunUserMatch` in `modules/setting/setting.go` of Gitea 1.26).
    let run_user = if has_account { format!("RUN_USER = {USER}\n") } else { String::new() };
    let (home, address) = (folder(paths), paths.forge());
    let (home, host, port) = (home.display(), address.ip(), address.port());
    let assets = assets(&paths.program("gitea"));
    let assets = assets.display();
    format!(
        "; Written by `lab up`.
APP_NAME = lab
{run_user}WORK_PATH = {home}
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
; One fsync per transaction instead of three: Gitea creates its 120 tables in half the time.
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

/// Returns the command that runs Gitea.
pub(crate) fn command(paths: &LabPaths) -> Result<Command, Error> {
    let mut command = gitea(paths)?;
    command.arg("web");
    Ok(command)
}

fn gitea(paths: &LabPaths) -> Result<Command, Error> {
    let mut command = Command::new(paths.program("gitea"));
    command.arg("--config").arg(configuration(paths));
    command.current_dir(folder(paths)).stdin(Stdio::null());
    // Gitea runs the same `git` as the lab, which need not be in a folder of the system.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/bin:/usr/bin:/bin");
    command.env_clear().env("HOME", folder(paths)).env("PATH", path);
    if let Some(account) = account()? {
        command.env("USER", USER).uid(account.user).gid(account.group);
    }
    Ok(command)
}

/// Creates an account and a token for `owner`, unless they exist. Returns the file of the token.
pub(crate) fn token(paths: &LabPaths, owner: &str) -> Result<PathBuf, Error> {
    let file = paths.secret(&format!("forge-{owner}"));
    if let Some(token) = files::read(&file)?
        && is_accepted(paths, owner, &String::from_utf8_lossy(&token))?
    {
        return Ok(file);
    }
    let step = documents::step("forge", "account");
    let address = paths.forge();
    if http::get(address, &format!("/api/v1/users/{owner}"), None)?.status != 200 {
        let email = format!("{owner}@lab.invalid");
        let mut create = gitea(paths)?;
        create.args(["admin", "user", "create", "--username", owner, "--email", &email]);
        create.args(["--random-password", "--must-change-password=false"]);
        let said = command::run(create, "gitea admin user create")?;
        // The programs log in with the token. A person in a browser needs the password.
        if let Some(password) = password(&String::from_utf8_lossy(&said)) {
            let file = paths.secret(&format!("forge-{owner}-password"));
            files::settle(&file, password.as_bytes(), 0o600)?;
        }
    }
    let mut generate = gitea(paths)?;
    // Gitea rejects a name that is in use, and an earlier token cannot be read back.
    let name = format!("lab-{}", files::hex(&files::random(8)?));
    generate.args(["admin", "user", "generate-access-token", "--raw", "--scopes", "all"]);
    generate.args(["--username", owner, "--token-name", &name]);
    let token = command::run(generate, "gitea admin user generate-access-token")?;
    files::settle(&file, token.trim_ascii(), 0o600)?;
    step.done(format_args!("{owner}, token in {}", file.display()));
    Ok(file)
}

/// Returns the password that Gitea has printed (`cmd/admin_user_create.go` of Gitea 1.26). It may contain
/// quotes.
fn password(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("generated random password is '")?;
    rest.lines().next()?.strip_suffix('\'')
}

fn is_accepted(paths: &LabPaths, owner: &str, token: &str) -> Result<bool, Error> {
    let authorization = format!("token {}", token.trim());
    let answer = http::get(paths.forge(), "/api/v1/user", Some(&authorization))?;
    match answer.status {
        200 => Ok(answer.body.contains(&format!("\"login\":\"{owner}\""))),
        401 => Ok(false),
        status => Err(Error::Answer {
            url: format!("http://{}/api/v1/user", paths.forge()),
            answer: status.to_string(),
        }),
    }
}

/// Returns the account that runs Gitea, or `None` if the user of the lab runs it.
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
    let failed =
        || Error::NoForgeUser { said: String::from_utf8_lossy(&said.stderr).trim().to_owned() };
    find(USER)?.map(Some).ok_or_else(failed)
}

fn find(name: &str) -> Result<Option<Account>, Error> {
    let table = Path::new("/etc/passwd");
    let text = fs::read_to_string(table).map_err(files::cannot("read", table))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let user = fields.nth(1)?.parse().ok()?;
        Some(Account { user, group: fields.next()?.parse().ok()? })
    });
    Ok(found)
}

fn give_to(path: &Path, account: Option<Account>) -> Result<(), Error> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.user), Some(account.group))
        .map_err(files::cannot("change the owner of", path))
}

/// Checks that a user other than root may enter every folder above `path`.
fn check_reachable(path: &Path) -> Result<(), Error> {
    for folder in path.ancestors().skip(1) {
        let open =
            fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
        if !open {
            return Err(Error::FolderForbidden { folder: folder.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    /// Measured with a user of systemd's userdb, who is not in `/etc/passwd`: Gitea 1.26 ends with `Expect user '54321'
    /// (RUN_USER in app.ini) but current user is: ada`.
    #[test]
    fn settings_name_only_the_user_that_the_lab_has_created() {
        let folder = PathBuf::from("/lab");
        let paths = LabPaths {
            root: folder.clone(),
            components: folder.clone(),
            built: None,
            nixpkgs: None,
            directory: folder.clone(),
            cache: folder,
            network: Network([127, 77]),
        };
        assert!(settings(&paths, true).contains("\nRUN_USER = git\nWORK_PATH = /lab/forge\n"));
        let others = settings(&paths, false);
        assert!(others.contains("\nAPP_NAME = lab\nWORK_PATH = /lab/forge\n"), "{others}");
    }
}
