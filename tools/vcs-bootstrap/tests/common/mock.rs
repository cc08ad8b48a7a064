//! The mock of GitHub with a folder in front of it, in every form that tests need: what a person, an App or
//! a job of CI starts with. `github.rs` has the mock itself.

#[path = "apps.rs"]
pub(crate) mod apps;
#[path = "github.rs"]
pub(crate) mod github;
#[path = "http.rs"]
pub(crate) mod http;
#[path = "openapi.rs"]
pub(crate) mod openapi;

use std::ops::Deref;

use apps::{CLIENT_ID, KEY};
use assert_cmd::assert::Assert;
use github::GitHub;
use http::TOKEN;

use crate::common::{ROOT, Sandbox, Test, ready, status, stderr};

/// A forge, and a folder with a project of it.
pub(crate) struct Setup {
    pub(crate) github: GitHub,
    pub(crate) sandbox: Sandbox,
}

impl Deref for Setup {
    type Target = GitHub;

    fn deref(&self) -> &GitHub {
        &self.github
    }
}

#[allow(dead_code, reason = "not every test that has this module needs all of it")]
impl Setup {
    /// Starts a forge whose callers have a token of `owner`, and declares the repository `greeter`.
    pub(crate) fn new(spec: &str) -> Test<Self> {
        Self::with(spec, GitHub::endpoint)
    }

    /// Starts a forge at which `owner` is an organisation, and whose callers are installations of an App.
    pub(crate) fn of_organisation(spec: &str, endpoint: impl Fn(&GitHub) -> String) -> Test<Self> {
        let setup = Self::with(spec, endpoint)?;
        setup.state(|state| (state.apps.organisation, state.apps.installation) = (true, true));
        Ok(setup)
    }

    /// Starts a forge. `endpoint` returns the value of `endpoints.forge`.
    pub(crate) fn with(spec: &str, endpoint: impl Fn(&GitHub) -> String) -> Test<Self> {
        let github = GitHub::start()?;
        let sandbox = Sandbox::new(&endpoint(&github), TOKEN)?;
        sandbox.declare("greeter", spec)?;
        Ok(Self { github, sandbox })
    }

    /// Declares the repository `greeter` anew.
    pub(crate) fn declare(&self, spec: &str) -> Test {
        self.sandbox.declare("greeter", spec)
    }

    pub(crate) fn run(&self, verb: &str) -> Assert {
        self.sandbox.run(verb)
    }

    /// Runs the program with the key of the App and without any token.
    pub(crate) fn run_as_app(&self, verb: &str) -> Assert {
        self.sandbox.run_with(verb, &[("ROOT", ROOT), ("APP_KEY", KEY)])
    }

    /// Asserts that every request matches GitHub's description of its API.
    pub(crate) fn assert_described(&self) {
        assert_eq!(self.state(|state| state.wrong.clone()), [""; 0]);
    }

    /// Asserts a failure with `reason` and exit status 100, without any write. Returns standard error.
    pub(crate) fn assert_refused(&self, verb: &str, reason: &str) -> Test<String> {
        self.writes();
        let refused = self.run(verb).code(100);
        let known = if reason == "AbsenceUnproven" { "Unknown" } else { "False" };
        assert_eq!(ready(&status(&refused)?), (known, reason), "{verb}");
        assert_eq!(self.writes(), [""; 0], "{verb}");
        Ok(stderr(&refused))
    }
}

/// Returns the value of `endpoints.forge` with the key of the App.
#[allow(dead_code, reason = "not every test that has this module needs it")]
pub(crate) fn with_app(github: &GitHub) -> String {
    format!(
        "{{github: {{url: \"http://{}\", token: {{env: UNUSED}}, app: {{clientId: {CLIENT_ID}, \
         key: {{env: APP_KEY}}}}}}}}",
        github.address
    )
}
