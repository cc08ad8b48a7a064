//! Connection to one repository at a forge, shared by all readers and writers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::git::Url;
use contract::Project;
use documents::Declared;
use http::Method;
use secrets::Secret;
use serde_json::Value;

use crate::Error;
use crate::clients::answer::Answer;
use crate::clients::app::App;
use crate::clients::dialect::{Dialect, dialect};
use crate::clients::http::{Client, Credential, Items, Service};
use crate::model::{Refusal, RepositorySlug};

/// Kind of forge: GitHub, or Gitea and Forgejo, which [`Dialect`] tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forge {
    GitHub,
    Gitea,
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

/// Forges of this run, by project. Each token is resolved once, because a command that yields it may wait
/// for a person.
#[derive(Default)]
pub(crate) struct Services(Mutex<BTreeMap<String, Arc<Service>>>);

impl Services {
    /// Returns the forge of `project`, and connects to it at the first call.
    fn of(&self, project: &Declared<Project>) -> Result<Arc<Service>, Error> {
        // The lock is held while the token is resolved, so that parallel documents do not resolve it again.
        let mut services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = services.get(project.name.as_str()) {
            return Ok(Arc::clone(service));
        }
        let endpoint = project.spec.endpoints.forge.as_ref().ok_or(Error::NoForge)?;
        let service = Arc::new(match endpoint {
            contract::Forge::Github { url, token, app } => {
                let credential = match app {
                    None => Credential::Token(token.resolve()?),
                    Some(app) => {
                        Credential::App(Box::new(App::new(&app.client_id, &app.key.resolve()?)?))
                    }
                };
                let pause = Duration::from_secs(1);
                Service::new(url, credential, pause, "application/vnd.github+json")?
            }
            contract::Forge::Gitea { url, token } => {
                let url = Url::try_from(format!("{url}/api/v1")).map_err(|_| Error::NoForge)?;
                let token = Credential::Token(token.resolve()?);
                Service::new(&url, token, Duration::ZERO, "application/json")?
            }
        });
        services.insert(project.name.to_string(), Arc::clone(&service));
        Ok(service)
    }
}

/// Owner of the token.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A person. The response describes the person's account.
    User(Box<Answer>),
    /// Installation of an App, which has no account.
    Installation,
    /// The forge does not tell, with its answer to the question.
    Unknown(Box<Answer>),
}

/// One repository at a forge, with the client for it.
pub(crate) struct Remote {
    pub(crate) client: Client,
    pub(crate) forge: Forge,
    /// Declared owner and name.
    pub(crate) place: RepositorySlug,
    /// Present owner and name, while the repository still has a former name.
    present: Mutex<Option<RepositorySlug>>,
    /// Forge of the project, the only recipient of the token.
    pub(crate) endpoint: contract::Forge,
    caller: OnceLock<Caller>,
    of_organisation: OnceLock<bool>,
}

impl Remote {
    pub(crate) fn open(
        services: &Services,
        project: &Declared<Project>,
        place: RepositorySlug,
        document: &str,
    ) -> Result<Self, Error> {
        let service = services.of(project)?;
        let endpoint = project.spec.endpoints.forge.clone().ok_or(Error::NoForge)?;
        let forge = match &endpoint {
            contract::Forge::Github { .. } => Forge::GitHub,
            contract::Forge::Gitea { .. } => Forge::Gitea,
        };
        let client = Client::new(service, &place.owner, document);
        let (present, caller) = (Mutex::default(), OnceLock::new());
        let of_organisation = OnceLock::new();
        Ok(Self { client, forge, place, present, endpoint, caller, of_organisation })
    }

    /// Returns a token for git.
    pub(crate) fn token(&self) -> Result<Secret, Error> {
        self.client.token()
    }

    /// Returns the owner and the name under which the repository is now.
    pub(crate) fn present(&self) -> RepositorySlug {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner).clone();
        present.unwrap_or_else(|| self.place.clone())
    }

    /// Records the name under which the repository is now; `None` is the declared one.
    pub(crate) fn set_present(&self, place: Option<RepositorySlug>) {
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Returns the API path of an object below the repository.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("/repos/{}{below}", self.present())
    }

    /// Returns who owns the token. An installation of an App may not ask for a user, and only an
    /// installation may ask for the repositories of an installation.
    pub(crate) fn caller(&self) -> Result<&Caller, Error> {
        if let Some(caller) = self.caller.get() {
            return Ok(caller);
        }
        let caller = if self.client.is_app() {
            Caller::Installation
        } else {
            let answer = self.client.get("/user")?;
            match answer.status {
                200 => Caller::User(Box::new(answer)),
                403 if self.forge == Forge::GitHub
                    && self.client.get("/installation/repositories?per_page=1")?.status == 200 =>
                {
                    Caller::Installation
                }
                _ => Caller::Unknown(Box::new(answer)),
            }
        };
        Ok(self.caller.get_or_init(|| caller))
    }

    /// Whether the token belongs to an installation of an App.
    pub(crate) fn is_installation(&self) -> Result<bool, Error> {
        Ok(matches!(self.caller()?, Caller::Installation))
    }

    /// Whether the owner of the repository is the token's own user.
    fn is_mine(&self) -> Result<bool, Error> {
        Ok(match self.caller()? {
            Caller::User(answer) => {
                let login = answer.body["login"].as_str().ok_or_else(|| answer.lacks("login"))?;
                login.eq_ignore_ascii_case(&self.place.owner)
            }
            Caller::Installation => false,
            Caller::Unknown(answer) => {
                return Err(answer
                    .as_ref()
                    .clone()
                    .expect(&[200])
                    .err()
                    .unwrap_or(Error::Unauthorised));
            }
        })
    }

    /// Returns the path at which a repository of the owner is created.
    pub(crate) fn creation_path(&self) -> Result<String, Error> {
        let owner = &self.place.owner;
        let of_organisation = format!("/orgs/{owner}/repos");
        if self.forge == Forge::Gitea {
            return Ok(if self.is_mine()? { "/user/repos".to_owned() } else { of_organisation });
        }
        // Every token may ask for the type of an account, also one of an installation.
        let account = self.client.get(&format!("/users/{owner}"))?;
        if account.status == 404 {
            return Err(Error::NoOwner { owner: owner.clone() });
        }
        let account = account.expect(&[200])?;
        if account.body["type"] != "User" {
            return Ok(of_organisation);
        }
        if self.is_mine()? {
            Ok("/user/repos".to_owned())
        } else {
            Err(Error::ForeignUser { owner: owner.clone() })
        }
    }

    /// Returns the kind and version of a Gitea or Forgejo.
    pub(crate) fn dialect(&self) -> Result<Dialect, Error> {
        dialect(&self.client)
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
