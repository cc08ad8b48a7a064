//! The way to one repository at a forge, for all that reads or writes there.

use std::cell::OnceCell;
use std::time::Duration;

use http::Method;
use keyring::{Secret, Url};
use serde_json::Value;

use crate::Error;
use crate::client::{Answer, Client, Items};
use crate::model::{Place, Refusal};

/// Which forge it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forge {
    GitHub,
    Gitea,
}

/// One repository's place at a forge, and the way there.
pub(crate) struct Remote {
    pub(crate) client: Client,
    pub(crate) forge: Forge,
    pub(crate) place: Place,
    /// The forge of the project: its token goes nowhere else.
    pub(crate) endpoint: keyring::Forge,
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

    /// The query that asks for the largest page.
    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::GitHub => "per_page=100",
            Self::Gitea => "limit=50",
        }
    }
}

impl Remote {
    pub(crate) fn open(endpoint: &keyring::Forge, place: Place) -> Result<(Self, Secret), Error> {
        let (forge, url, token) = match endpoint {
            keyring::Forge::Github { url, token } => (Forge::GitHub, url.clone(), token),
            keyring::Forge::Gitea { url, token } => {
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

    /// The path of something below the repository.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("/repos/{}{below}", self.place)
    }

    /// To whom the token belongs.
    pub(crate) fn me(&self) -> Result<&str, Error> {
        if let Some(me) = self.me.get() {
            return Ok(me);
        }
        let answer = self.client.get("/user")?.expect(&[200])?;
        let me = answer.body["login"].as_str().ok_or_else(|| answer.lacks("login"))?;
        Ok(self.me.get_or_init(|| me.to_owned()))
    }

    /// Whether an organisation owns the repository. Asked of Gitea alone, and of the repository, since
    /// a token for repositories may not ask for organisations: teams are for organisations alone,
    /// and for a user's repository the answer is 405 (routers/api/v1/repo/teams.go).
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

    /// A write below the repository.
    pub(crate) fn write(
        &self,
        method: &Method,
        below: &str,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Answer, Error> {
        self.client.write(method, &self.path(below), body, expected)
    }

    /// Every item of a list below the repository.
    pub(crate) fn list(
        &self,
        below: &str,
        items: Items,
    ) -> Result<Result<Vec<Value>, Refusal>, Error> {
        // GitHub's variables alone have smaller pages: 30 at most.
        let small = self.forge == Forge::GitHub && below == VARIABLES;
        let page = if small { "per_page=30" } else { self.forge.page() };
        self.client.list(&self.path(below), page, items)
    }
}

pub(crate) const VARIABLES: &str = "/actions/variables";
