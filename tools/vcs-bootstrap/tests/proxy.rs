//! A company's network: the forge is a GitHub Enterprise Server with a certificate of the company's own
//! authority, and it is reached through a proxy for HTTP only.

mod common;
#[path = "common/mock.rs"]
mod mock;
#[path = "common/proxies.rs"]
mod proxies;

use std::fs;

use common::{Test, ready, status, stderr};
use data_encoding::BASE64;
use mock::Setup;
use mock::http::TOKEN;
use proxies::TlsProxy;

/// Host that only the proxy can reach.
const HOST: &str = "forge.example";
/// Root key, because the one of the other tests is published, and this forge is not on this machine.
const ROOT: &str = "b3a1c29d5e0f4786a9b8c7d6e5f40312233445566778899aabbccddeeff00717";

struct World {
    setup: Setup,
    proxy: TlsProxy,
    /// File with the certificate of the proxy's authority.
    authority: String,
}

fn world(demands_login: bool) -> Test<World> {
    let spec = "owner: owner, description: ours, history: {push: fastForward}";
    let setup = Setup::with(spec, |_| {
        format!("{{github: {{url: \"https://{HOST}/api/v3\", token: {{env: FORGE_TOKEN}}}}}}")
    })?;
    setup.state(|state| state.clone_host = Some(format!("https://{HOST}")));
    let proxy = TlsProxy::start(HOST, setup.address, demands_login)?;
    let file = setup.sandbox.path().join("ca.pem");
    fs::write(&file, &proxy.authority)?;
    Ok(World { setup, proxy, authority: file.display().to_string() })
}

impl World {
    fn run(&self, verb: &str, login: &str) -> assert_cmd::assert::Assert {
        let proxy = format!("http://{login}{}", self.proxy.address);
        let variables = [
            ("ROOT", ROOT),
            ("https_proxy", proxy.as_str()),
            ("SSL_CERT_FILE", self.authority.as_str()),
        ];
        self.setup.sandbox.run_with(verb, &variables)
    }
}

// hazard: Behind a proxy, git reaches the forge and the API does not.
// class: Two clients have two ways.
// members: https_proxy with and without a login, GitHub Enterprise Server, a private authority
// now: both use the proxy, which sees CONNECT alone
#[test]
fn api_and_git_reach_the_forge_through_the_same_proxy() -> Test {
    for (demands_login, login) in [(false, ""), (true, "user:word@")] {
        let world = world(demands_login)?;
        let run = world.run("apply", login).success();
        assert_eq!(ready(&status(&run)?), ("True", "AsDeclared"));
        assert!(world.setup.pushes() > 0, "git has pushed");
        world.run("plan --check", login).success();
        let connections = world.proxy.take_seen();
        assert!(connections.iter().all(|(line, _)| *line == format!("CONNECT {HOST}:443")));
        let all = format!("{connections:?}");
        assert!(!all.contains(TOKEN) && !all.contains(&BASE64.encode(TOKEN.as_bytes())), "{all}");
        world.setup.assert_described();
    }
    Ok(())
}

#[test]
fn proxy_that_demands_another_login_is_named_at_once() -> Test {
    let world = world(true)?;
    let began = std::time::Instant::now();
    let run = world.run("plan", "user:hunter2@").code(100);
    assert_eq!(ready(&status(&run)?), ("False", "Unauthorized"));
    let said = stderr(&run);
    assert!(
        said.contains("proxy") && said.contains("https_proxy") && !said.contains("hunter2"),
        "{said}"
    );
    assert_eq!(world.proxy.take_seen().len(), 1, "one attempt");
    assert!(began.elapsed().as_secs() < 10);
    Ok(())
}
