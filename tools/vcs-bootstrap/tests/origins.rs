//! One credential, one origin: only the forge receives the forge's token.
//!
//! Three servers record every request: the forge, another host, and a proxy. The configuration of
//! the repository, the user and the environment tries to send git, the token or other credentials
//! to each of them.

#![expect(clippy::print_stdout, reason = "the table of hosts and credentials is for people")]

mod common;
#[path = "common/mock.rs"]
mod mock;
#[path = "common/proxies.rs"]
mod proxies;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ::git::{Origin as GitOrigin, Url};
use common::{ROOT, Test, ready, status};
use data_encoding::BASE64;
use mock::Setup;
use mock::http::TOKEN;
use proxies::recorder;
use secrets::Secret;
use testing::http::Server;

/// A document that makes the program use both git and the API: a pushed and protected branch.
const FULL: &str = "owner: owner, description: ours, history: {push: fastForward}, \
    secrets: {phaseKeys: [artifact-attest]}, deployKeys: [flux-seed]";

/// A credential other than the forge's token: `foreign:foreign`.
const FOREIGN: &str = "Zm9yZWlnbjpmb3JlaWdu";

struct World {
    setup: Setup,
    other: Server,
    proxy: Server,
    /// Log that helpers, hooks and configured commands write to when they run.
    log: PathBuf,
    environment: Vec<(String, String)>,
}

/// Creates a world in which every configuration that git reads tries to obtain the token.
fn world() -> Test<World> {
    let setup = Setup::new(FULL)?;
    let sandbox = &setup.sandbox;
    let other = recorder("127.76.0.4", 401, ("WWW-Authenticate", "Basic realm=\"other\""))?;
    let proxy = recorder("127.76.0.5", 407, ("Proxy-Authenticate", "Basic realm=\"proxy\""))?;
    let log = sandbox.path().join("log");
    let home = sandbox.path().join("home");
    fs::create_dir_all(home.join("hooks"))?;
    let script = home.join("script");
    let spy = format!("#!/bin/sh\necho \"$0 $*\" >>'{0}'\nenv >>'{0}'\n", log.display());
    for name in ["script", "hooks/pre-push", "hooks/reference-transaction"] {
        fs::write(home.join(name), &spy)?;
        fs::set_permissions(home.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let (forge, host, via) = (setup.address, &other.address, &proxy.address);
    let script = script.display();
    let config = format!(
        "[http]\n\textraHeader = Authorization: Basic {FOREIGN}\n\tproxy = http://foreign:foreign@{via}\n\
         \tcookieFile = {script}\n\tsaveCookies = true\n\tsslVerify = false\n\tfollowRedirects = true\n\
         [http \"http://{forge}/\"]\n\textraHeader = Authorization: Basic {FOREIGN}\n\tproxy = http://{via}\n\
         [url \"http://{host}/\"]\n\tinsteadOf = http://{forge}/\n\tpushInsteadOf = http://{forge}/\n\
         [credential]\n\thelper = {script}\n\tuseHttpPath = true\n\
         [credential \"http://{forge}\"]\n\thelper = {script}\n\tusername = foreign\n\
         [remote \"origin\"]\n\turl = http://{host}/x.git\n\tproxy = http://{via}\n\tpromisor = true\n\
         \tpartialCloneFilter = blob:none\n\
         [core]\n\tsshCommand = {script}\n\taskPass = {script}\n\thooksPath = {hooks}\n\tfsmonitor = {script}\n\
         \tgitProxy = {script}\n\
         [protocol \"ext\"]\n\tallow = always\n\
         [lfs]\n\turl = http://{host}/lfs\n\
         [transfer]\n\tbundleURI = true\n[fetch]\n\turiProtocols = http,https\n",
        hooks = home.join("hooks").display(),
    );
    fs::write(home.join(".gitconfig"), &config)?;
    fs::write(home.join("more"), &config)?;
    let netrc = [&forge.to_string(), host, via].map(|address| {
        let host = address.split(':').next().unwrap_or_default();
        format!("machine {host} login foreign password foreign\n")
    });
    fs::write(home.join(".netrc"), netrc.concat())?;
    let file = sandbox.path().join(".git/config");
    let include = format!("[include]\n\tpath = {}\n", home.join("more").display());
    fs::write(&file, [fs::read_to_string(&file)?, config, include].concat())?;
    let pairs = [
        ("ROOT", ROOT.to_owned()),
        ("HOME", home.display().to_string()),
        ("GIT_ASKPASS", script.to_string()),
        ("SSH_ASKPASS", script.to_string()),
        ("GIT_SSH_COMMAND", script.to_string()),
        ("GIT_PROXY_COMMAND", script.to_string()),
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        ("GIT_CONFIG_KEY_0", "http.extraHeader".to_owned()),
        ("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {FOREIGN}")),
        ("GIT_CONFIG_PARAMETERS", format!("'http.proxy=http://{via}'")),
        ("GIT_SSL_NO_VERIFY", "1".to_owned()),
        ("http_proxy", format!("http://foreign:foreign@{via}")),
        ("https_proxy", format!("http://foreign:foreign@{via}")),
        ("HTTPS_PROXY", format!("http://foreign:foreign@{via}")),
        ("ALL_PROXY", format!("http://foreign:foreign@{via}")),
    ];
    let environment = pairs.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Ok(World { setup, other, proxy, log, environment })
}

/// Returns the first line and the headers of every request that a server received.
fn heads_of(server: &Server) -> Vec<String> {
    let seen = server.seen().into_iter();
    seen.map(|request| format!("{} {} {:?}", request.method, request.target, request.headers))
        .collect()
}

/// Returns the forms of credentials in a header: the column's name, and the text.
fn credentials() -> [(&'static str, String); 3] {
    [
        ("the token (API)", format!("Bearer {TOKEN}")),
        ("the token (git)", basic(&format!("x-access-token:{TOKEN}"))),
        ("other credentials", format!("Basic {FOREIGN}")),
    ]
}

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64.encode(pair.as_bytes()))
}

impl World {
    fn run(&self, verb: &str) -> assert_cmd::assert::Assert {
        let environment = self.environment.iter().map(|(name, value)| (&**name, &**value));
        self.setup.sandbox.run_with(verb, &environment.collect::<Vec<_>>())
    }

    /// Returns the number of requests with each credential, by host.
    fn table(&self) -> BTreeMap<&'static str, [usize; 4]> {
        let forge = self.setup.state(|state| state.seen.clone());
        let forge = forge.into_iter().map(|(line, header)| format!("{line} {header:?}"));
        let hosts = [
            ("forge", forge.collect::<Vec<_>>()),
            ("other host", heads_of(&self.other)),
            ("proxy", heads_of(&self.proxy)),
        ];
        hosts
            .into_iter()
            .map(|(host, requests)| {
                let with =
                    |text: &str| requests.iter().filter(|request| request.contains(text)).count();
                let [api, git, foreign] = credentials().map(|(_, text)| with(&text));
                (host, [requests.len(), api, git, foreign])
            })
            .collect()
    }

    /// Prints the table, and asserts that only the forge received the token, and no other
    /// credential.
    fn assert_kept(&self, what: &str) {
        let table = self.table();
        println!("| {what} | requests | token (API) | token (git) | other credentials |");
        for (host, counts) in &table {
            println!("| {host} | {} |", counts.map(|count| count.to_string()).join(" | "));
        }
        for host in ["other host", "proxy"] {
            assert_eq!(
                table[host],
                [0; 4],
                "{what}: {:?} {:?}",
                heads_of(&self.other),
                heads_of(&self.proxy)
            );
        }
        assert_eq!(table["forge"][3], 0, "the forge sees no credentials but its own");
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        assert_eq!(log, "", "nothing that the configuration names has run");
    }
}

// hazard: Git hands the forge's token to another host, or sends another host's credentials to
// the forge.
// class: A credential has no origin.
// members: promisors of partial clones, `extraheader` of actions/checkout, `insteadOf`, proxies,
// LFS addresses, `credential.*`, `.netrc`, cookies, `include`, `GIT_CONFIG_*`, hooks,
// `sslVerify=false`
// now: git with a token reads no configuration but ours, and its helper answers for one scheme,
// host and port
#[test]
fn only_the_forge_sees_its_token_over_a_whole_life() -> Test {
    let world = world()?;
    for verb in ["plan", "apply", "verify", "destroy"] {
        world.run(verb).success();
    }
    world.run("apply").success();
    world.setup.sandbox.commit("second")?;
    world.run("apply").success();
    let lost = format!("{FULL}, onDestroy: delete, dataOnDestroy: discard");
    world.setup.declare(&lost)?;
    world.run("plan --destroy").success();
    world.run("destroy").success();
    world.assert_kept("plan, apply, verify, destroy");
    let [_, api, git, _] = world.table()["forge"];
    assert!(api > 0 && git > 0, "both ways were used");
    Ok(())
}

// hazard: A drain's mirror clone hands the forge's token to another host.
// class: A credential has no origin.
// members: the clone address in a status, which is only a file
// now: `ForeignOrigin`, exit 100, before anything is sent
#[test]
fn only_the_forge_sees_its_token_when_a_drain_copies_the_history() -> Test {
    let world = world()?;
    world.run("apply").success();
    let url = format!("http://{}/owner/greeter.git", world.setup.address);
    assert!(child(&world, &url)?, "data-drain's commands succeed");
    assert!(world.setup.sandbox.path().join("mirror.git/packed-refs").exists());
    world.assert_kept("data-drain: ls-remote, clone --mirror");
    Ok(())
}

// hazard: A proxy that demands credentials gets the forge's token.
// class: A credential has no origin.
// members: proxies of the environment and of the configuration, for HTTP and HTTPS
// now: a proxy sees CONNECT alone; plain HTTP on this machine uses no proxy
#[test]
fn a_proxy_for_https_sees_a_tunnel_and_never_the_token() -> Test {
    let world = world()?;
    assert!(!child(&world, "https://forge.invalid/owner/greeter.git")?, "the host does not exist");
    let heads = heads_of(&world.proxy);
    assert!(
        !heads.is_empty() && heads.iter().all(|head| head.starts_with("CONNECT forge.invalid"))
    );
    let all = heads.concat();
    for secret in [TOKEN.to_owned(), BASE64.encode(format!("x-access-token:{TOKEN}").as_bytes())] {
        assert!(!all.contains(&secret), "{all}");
    }
    assert_eq!(heads_of(&world.other), [""; 0]);
    println!("| proxy (CONNECT) | {} | 0 | 0 | its own |", heads.len());
    Ok(())
}

/// Runs data-drain's git commands in a child process with the environment of `world`, because a
/// test cannot change its own environment. Returns whether git succeeded.
fn child(world: &World, url: &str) -> Test<bool> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "git_of_a_drain_runs", "--nocapture"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(world.environment.iter().cloned());
    command.env("RECORDER_URL", url).current_dir(world.setup.sandbox.path());
    let output = command.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?.contains("git succeeded"))
}

/// Child process of the tests above. Run alone, it does nothing.
#[test]
fn git_of_a_drain_runs() -> Test {
    let Ok(url) = std::env::var("RECORDER_URL") else { return Ok(()) };
    let (url, token) = (Url::try_from(url)?, Secret::new(TOKEN.into()));
    let origin = GitOrigin { url: &url, token: &token };
    let git = |arguments: &[&str]| ::git::run(arguments, Path::new("."), Some(&origin));
    let listed = git(&["ls-remote", "--quiet", url.as_str()])?;
    let cloned = git(&["clone", "--progress", "--mirror", url.as_str(), "mirror.git"])?;
    assert!(![listed.message(), cloned.message()].concat().contains("foreign@"));
    if listed.success && cloned.success {
        println!("git succeeded");
    }
    Ok(())
}

// hazard: A forge, or a proxy before it, redirects a request that carries the token to another
// host.
// class: A credential has no origin.
// members: 301, 302, 303, 307, 308 of the API and of git; `Link: next` at another host
// now: `Renamed` or `Redirected`, exit 100; the other host sees no request
#[test]
fn neither_the_api_client_nor_git_follows_a_redirect() -> Test {
    for code in [301, 302, 303, 307, 308] {
        let world = world()?;
        let elsewhere = format!("http://{}/repositories/1", world.other.address);
        world.run("apply").success();
        world.setup.state(|state| state.redirects = Some((code, elsewhere.clone())));
        for verb in ["plan", "apply", "verify", "destroy"] {
            let run = world.run(verb).code(100);
            let status = status(&run)?;
            let reason = if [302, 303].contains(&code) { "Redirected" } else { "Renamed" };
            assert_eq!(ready(&status), ("False", reason), "{verb} {code}");
        }
        world.setup.state(|state| state.redirects = None);
        let git = format!("http://{}/x.git", world.other.address);
        world.setup.state(|state| state.git_refuses = Some(("git-upload-pack", code, git)));
        world.run("plan").code(100);
        world.assert_kept(&format!("redirect {code}"));
    }
    Ok(())
}

#[test]
fn a_next_page_at_another_host_is_not_requested() -> Test {
    let world = world()?;
    world.run("apply").success();
    let next = format!("http://{}", world.other.address);
    world.setup.state(|state| {
        state.next = next;
        state.secrets.extend((0..130).map(|n| (format!("A{n}"), Default::default())));
    });
    world.run("plan --check").success();
    world.assert_kept("Link: next");
    Ok(())
}

// hazard: The forge's answer names a clone address at another host, which then gets the token.
// class: A credential has no origin.
// members: another port, another scheme, a host that begins or ends alike
// now: `ForeignOrigin`, exit 100: correct ROOT_URL or spec.endpoints.forge
#[test]
fn a_clone_address_at_another_host_gets_no_token() -> Test {
    let world = world()?;
    world.run("apply").success();
    let other = world.other.address.clone();
    world.setup.state(|state| state.clone_host = Some(format!("http://{other}")));
    for verb in ["plan", "apply", "verify", "destroy"] {
        let refused = status(&world.run(verb).code(100))?;
        assert_eq!(ready(&refused), ("False", "ForeignOrigin"), "{verb}");
    }
    world.assert_kept("clone_url elsewhere");
    Ok(())
}

#[test]
fn a_partial_clone_is_an_error_before_anything_is_fetched_or_created() -> Test {
    let world = world()?;
    // A commit whose file exists only at the promisor, which is the other host.
    fs::write(world.setup.sandbox.path().join("large"), "content")?;
    let blob = world.setup.sandbox.git(&["hash-object", "-w", "large"])?;
    world.setup.sandbox.git(&["add", "large"])?;
    world.setup.sandbox.commit("large")?;
    fs::remove_file(world.setup.sandbox.path().join(format!(
        ".git/objects/{}/{}",
        &blob[..2],
        &blob[2..]
    )))?;
    for verb in ["plan", "apply"] {
        let refused = status(&world.run(verb).code(100))?;
        assert_eq!(ready(&refused), ("False", "HistoryIncomplete"), "{verb}");
    }
    assert_eq!(world.setup.writes(), [""; 0]);
    world.assert_kept("partial clone");
    Ok(())
}
