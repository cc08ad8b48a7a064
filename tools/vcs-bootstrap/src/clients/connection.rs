//! Connection to one repository at a forge, shared by all readers and writers.

use std::cell::OnceCell;
use std::time::Duration;

use ::git::Url;
use http::Method;
use secrets::Secret;
use serde_json::Value;

use crate::Error;
use crate::clients::http::{Answer, Client, Items};
use crate::model::{Refusal, RepositorySlug};

/// Kind of forge: GitHub, or Gitea and Forgejo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forge {
    GitHub,
    Gitea,
}

/// One repository at a forge, with the client for it.
pub(crate) struct Remote {
    pub(crate) client: Client,
    pub(crate) forge: Forge,
    pub(crate) place: RepositorySlug,
    /// Forge of the project, the only recipient of the token.
    pub(crate) endpoint: contract::Forge,
    me: OnceCell<String>,
    of_organisation: OnceCell<bool>,
}

impl Forge {
    pub(crate) fn homepage(self) -> &'static str {
        match self {
            Self::GitHub => "homepage",
            Self::Gitea => "website",
        }
    }

    /// Returns the query parameter for the largest page.
    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::GitHub => "per_page=100",
            Self::Gitea => "limit=50",
        }
    }
}

impl Remote {
    pub(crate) fn open(
        endpoint: &contract::Forge,
        place: RepositorySlug,
    ) -> Result<(Self, Secret), Error> {
        let (forge, url, token) = match endpoint {
            contract::Forge::Github { url, token } => (Forge::GitHub, url.clone(), token),
            contract::Forge::Gitea { url, token } => {
                let url = Url::try_from(format!("{url}/api/v1"));
                (Forge::Gitea, url.map_err(|_| Error::NoForge)?, token)
            }
        };
        let token = token.resolve()?;
        let pause = match forge {
            Forge::GitHub => Duration::from_secs(1),
            Forge::Gitea => Duration::ZERO,
        };
        let client = Client::new(&url, &token, pause)?;
        let (endpoint, me, of_organisation) = (endpoint.clone(), OnceCell::new(), OnceCell::new());
        Ok((Self { client, forge, place, endpoint, me, of_organisation }, token))
    }

    /// Returns the API path of an object below the repository.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("/repos/{}{below}", self.place)
    }

    /// Returns the login of the token's user.
    pub(crate) fn me(&self) -> Result<&str, Error> {
        if let Some(me) = self.me.get() {
            return Ok(me);
        }
        let answer = self.client.get("/user")?.expect(&[200])?;
        let me = answer.body["login"].as_str().ok_or_else(|| answer.lacks("login"))?;
        Ok(self.me.get_or_init(|| me.to_owned()))
    }

    /// Whether an organisation owns the repository. Used for Gitea only. The question goes to the
    /// repository because a token for repositories may not read organisations. Only organisations
    /// have teams, and Gitea answers 405 for a user's repository (routers/api/v1/repo/teams.go).
    pub(crate) fn is_of_organisation(&self) -> Result<bool, Error> {
        if let Some(known) = self.of_organisation.get() {
            return Ok(*known);
        }
        let answer = self.client.get(&self.path("/teams"))?;
        let is = answer.status != 405;
        if is {
            answer.expect(&[200])?;
        }
        Ok(*self.of_organisation.get_or_init(|| is))
    }

    /// Sends a write to a path below the repository.
    pub(crate) fn write(
        &self,
        method: &Method,
        below: &str,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Answer, Error> {
        self.client.write(method, &self.path(below), body, expected)
    }

    /// Returns every item of a list below the repository.
    pub(crate) fn list(
        &self,
        below: &str,
        items: Items,
    ) -> Result<Result<Vec<Value>, Refusal>, Error> {
        // GitHub limits pages of variables to 30 items, unlike all other lists.
        let small = self.forge == Forge::GitHub && below == VARIABLES;
        let page = if small { "per_page=30" } else { self.forge.page() };
        self.client.list(&self.path(below), page, items)
    }
}

pub(crate) const VARIABLES: &str = "/actions/variables";
