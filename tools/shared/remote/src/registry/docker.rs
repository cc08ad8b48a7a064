//! Logins that `docker login`, `podman login` or a credential helper keeps.
//!
//! The files are those of go-containerregistry's default keychain, which crane, cosign and Flux use
//! (<https://github.com/google/go-containerregistry/blob/main/pkg/authn/keychain.go>), and of
//! containers-auth.json(5). Docker describes the format:
//! <https://docs.docker.com/reference/cli/docker/login/#credential-stores>.

use std::env;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use secrets::Secret;
use serde_json::Value;
use zeroize::Zeroizing;

use super::error::Error;
use super::login::{IDENTITY_TOKEN, Login};
use super::repository::{DOCKER_HUB, DOCKER_HUB_API};
use crate::redact::redact;

/// Key of Docker Hub in Docker's configuration, a relic of the first protocol.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Largest configuration, and largest output of a helper, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// Longest run of a helper. A helper of a cloud makes a few requests.
const HELPER_TIME_MAX: Duration = Duration::from_secs(60);
/// Output of every helper for an unknown server
/// (<https://github.com/docker/docker-credential-helpers/blob/master/credentials/error.go>).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Whether `host` is Docker Hub, under any of its names.
#[must_use]
pub fn is_docker_hub(host: &str) -> bool {
    host == DOCKER_HUB_API || DOCKER_HUB.contains(&host)
}

/// Returns the login for the registry at `host` and the namespace `path`, from the first file that has one.
pub(super) fn login(host: &str, path: &str) -> Result<Option<Login>, Error> {
    for file in files(|name| env::var_os(name).map(PathBuf::from)) {
        let Some(config) = read(&file)? else { continue };
        if let Some(login) = of_config(&config, host, path, &file)? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

/// Returns the files in the order of their precedence. `variable` returns an environment variable.
fn files(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let under = |name: &str, rest: &str| Some(variable(name)?.join(rest));
    let files = [
        under("DOCKER_CONFIG", "config.json").or_else(|| under("HOME", ".docker/config.json")),
        variable("REGISTRY_AUTH_FILE"),
        under("XDG_RUNTIME_DIR", "containers/auth.json"),
        under("XDG_CONFIG_HOME", "containers/auth.json")
            .or_else(|| under("HOME", ".config/containers/auth.json")),
    ];
    files.into_iter().flatten().filter(|file| file.is_absolute()).collect()
}

fn unusable(what: &impl ToString, why: &impl ToString) -> Error {
    Error::DockerConfig { what: what.to_string(), why: why.to_string() }
}

fn read(file: &Path) -> Result<Option<Value>, Error> {
    let failed = |error: io::Error| unusable(&file.display(), &error);
    let open = match fs::File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        open => open.map_err(failed)?,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    open.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    // The parser's own error could quote a password.
    let config = serde_json::from_slice(&bytes);
    config.map(Some).map_err(|_| unusable(&file.display(), &"not JSON"))
}

/// Returns the keys under which a configuration may have the registry, the most specific first.
fn keys(host: &str, path: &str) -> Vec<String> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let scoped =
        (1..=parts.len()).rev().map(|count| format!("{host}/{}", parts[..count].join("/")));
    let mut keys: Vec<_> = scoped.collect();
    if is_docker_hub(host) {
        keys.extend([DOCKER_HUB_KEY, "index.docker.io", "docker.io"].map(str::to_owned));
    }
    keys.push(host.to_owned());
    for scheme in ["https", "http"] {
        keys.extend(["", "/", "/v1/", "/v2/"].map(|end| format!("{scheme}://{host}{end}")));
    }
    keys
}

fn of_config(config: &Value, host: &str, path: &str, file: &Path) -> Result<Option<Login>, Error> {
    let keys = keys(host, path);
    let server = if is_docker_hub(host) { DOCKER_HUB_KEY } else { host };
    let helper = keys.iter().find_map(|key| config["credHelpers"][key.as_str()].as_str());
    if let Some(helper) = helper {
        return of_helper(helper, server);
    }
    for key in &keys {
        let login = of_entry(&config["auths"][key.as_str()]);
        if let Some(login) = login.map_err(|why| unusable(&file.display(), &why))? {
            return Ok(Some(login));
        }
    }
    config["credsStore"].as_str().map_or(Ok(None), |store| of_helper(store, server))
}

/// Returns the login of one entry of `auths`; `None` for an entry that only marks a login in a store.
fn of_entry(entry: &Value) -> Result<Option<Login>, &'static str> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(login_of(IDENTITY_TOKEN, token)));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Ok(Some(login_of(user, password)));
    }
    let Some(auth) = text("auth") else { return Ok(None) };
    let pair = BASE64.decode(auth.as_bytes()).ok().and_then(|pair| String::from_utf8(pair).ok());
    let pair = Zeroizing::new(pair.ok_or("an `auth` is not base64")?);
    let (user, password) = pair.split_once(':').ok_or("an `auth` has no colon")?;
    Ok(Some(login_of(user, password.trim_end_matches('\0'))))
}

fn login_of(user: &str, token: &str) -> Login {
    Login { user: user.to_owned(), token: Secret::new(token.as_bytes().to_vec()) }
}

/// Asks the credential helper `docker-credential-NAME` for the login at `server`.
fn of_helper(name: &str, server: &str) -> Result<Option<Login>, Error> {
    let program = format!("docker-credential-{name}");
    let failed = |why: &dyn ToString| unusable(&format!("`{program}`"), &why.to_string());
    if name.contains(['/', '\0']) {
        return Err(failed(&"the name of a helper is no path"));
    }
    // The helper belongs to the user's configuration, and gets the user's environment as from Docker.
    let mut helper = Command::new(&program);
    helper.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = helper.spawn().map_err(|error| failed(&error))?;
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(format!("{server}\n").as_bytes()); // a helper may end without reading
    }
    let output = child.stdout.take().map(|pipe| {
        thread::spawn(move || {
            let mut bytes = Zeroizing::new(Vec::new());
            let _ = pipe.take(BYTES_MAX).read_to_end(&mut bytes); // an incomplete answer is not JSON
            bytes
        })
    });
    let deadline = Instant::now() + HELPER_TIME_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| failed(&error))? {
            break status;
        }
        let interrupt = documents::check_interrupt();
        if interrupt.is_err() || Instant::now() > deadline {
            let _ = child.kill(); // the helper may have just ended
            let _ = child.wait();
            interrupt?;
            return Err(failed(&format!("no answer within {} s", HELPER_TIME_MAX.as_secs())));
        }
        thread::sleep(Duration::from_millis(5));
    };
    let output = output.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if !status.success() {
        let said = String::from_utf8_lossy(&output).trim().to_owned();
        if said == NOT_FOUND {
            return Ok(None);
        }
        return Err(failed(&redact(&format!("{status} {said}"), &[""; 0])));
    }
    let answer: Value =
        serde_json::from_slice(&output).map_err(|_| failed(&"the answer is not JSON"))?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    Ok((!text("Secret").is_empty()).then(|| login_of(text("Username"), text("Secret"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(config: &Value, host: &str, path: &str) -> Option<String> {
        let login = of_config(config, host, path, Path::new("config.json")).expect("readable")?;
        Some(format!("{}:{}", login.user, login.token.text().expect("text")))
    }

    #[test]
    fn a_login_is_found_under_every_form_of_a_registrys_name() {
        let auth = |pair: &str| json!({"auth": BASE64.encode(pair.as_bytes())});
        for key in ["r.example", "https://r.example", "https://r.example/v1/", "r.example/team"] {
            let config = json!({"auths": {key: auth("me:a:b"), "other.example": auth("x:y")}});
            assert_eq!(found(&config, "r.example", "team").as_deref(), Some("me:a:b"), "{key}");
            assert_eq!(found(&config, "r.example.evil", "team"), None, "{key}");
        }
        for key in ["https://index.docker.io/v1/", "docker.io", "index.docker.io"] {
            let config = json!({"auths": {key: auth("me:hub")}});
            assert_eq!(found(&config, "docker.io", "me").as_deref(), Some("me:hub"), "{key}");
        }
        let both = json!({"auths": {"r.example": auth("a:a"), "r.example/team": auth("b:b")}});
        assert_eq!(found(&both, "r.example", "team/x").as_deref(), Some("b:b"));
        assert_eq!(found(&both, "r.example", "other").as_deref(), Some("a:a"));
        let identity = json!({"auths": {"r.example": {"identitytoken": "t", "auth": "Og=="}}});
        assert_eq!(found(&identity, "r.example", "").as_deref(), Some("<token>:t"));
        assert_eq!(found(&json!({"auths": {"r.example": {}}}), "r.example", ""), None);
    }

    #[test]
    fn a_broken_login_is_an_error_that_does_not_quote_the_login() {
        for auth in ["hunter2!", "aHVudGVyMg=="] {
            let config = json!({"auths": {"r.example": {"auth": auth}}});
            let error = of_config(&config, "r.example", "", Path::new("config.json"));
            let message = error.expect_err("broken").to_string();
            assert!(message.contains("config.json") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn files_are_searched_in_the_order_of_other_programs() {
        let set = |name: &str| {
            let value = match name {
                "HOME" => "/home/me",
                "XDG_RUNTIME_DIR" => "/run/user/1",
                "DOCKER_CONFIG" => "/docker",
                _ => return None,
            };
            Some(PathBuf::from(value))
        };
        let expected = [
            "/docker/config.json",
            "/run/user/1/containers/auth.json",
            "/home/me/.config/containers/auth.json",
        ];
        assert_eq!(files(set), expected.map(PathBuf::from));
        assert!(files(|_| None).is_empty());
    }
}
