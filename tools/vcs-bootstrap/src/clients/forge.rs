//! Reader and writer of a forge. Only `apply` and `destroy` create a writer. `github.rs` and
//! `gitea.rs` contain the differences between forges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::git::Url;
use data_encoding::{BASE64, BASE64_NOPAD};
use documents::WritePermit;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::absence;
use crate::clients::answer::Answer;
use crate::clients::connection::{Forge, Remote, VARIABLES};
use crate::clients::http::Items;
use crate::clients::{gitea, github};
use crate::model::{Readable, Refusal, RepositorySlug, Rule, SeenKey, Settings};

/// Reads a repository at a forge.
pub(crate) struct Reader<'a>(pub(crate) &'a Remote);

/// Writes a repository at a forge.
pub(crate) struct Writer<'a>(&'a Remote);

/// A repository as a forge describes it in one response.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the forge's answer")]
pub(crate) struct ForgeRepository {
    pub(crate) id: u64,
    pub(crate) administrator: Option<bool>,
    pub(crate) archived: bool,
    pub(crate) settings: Settings,
    pub(crate) topics: BTreeSet<String>,
    /// Whether the forge has pull requests enabled; always true at GitHub.
    pub(crate) pull_requests: bool,
    /// Whether the forge has releases enabled; always true at GitHub.
    pub(crate) releases: bool,
    /// Whether Gitea sees no commit in the repository. Gitea then answers 404 for pull requests
    /// (`CanEnablePulls` in models/repo/repo.go of v1.26).
    pub(crate) empty: bool,
    /// Whether discussions are enabled; GitHub only.
    pub(crate) discussions: bool,
    pub(crate) default_branch: String,
    /// Clone URL for Git.
    pub(crate) git: Url,
    /// URL of the website.
    pub(crate) web: String,
}

const SECRETS: &str = "/actions/secrets";
const KEYS: &str = "/keys";

impl Reader<'_> {
    /// Returns the repository under its declared name or one of its `former` names, or `None` with a
    /// proof of its absence. `earlier` is the forge's number of the repository from an earlier run.
    pub(crate) fn find(
        &self,
        earlier: Option<u64>,
        former: &[RepositorySlug],
    ) -> Result<Option<ForgeRepository>, Error> {
        self.0.set_present(None);
        let answer = self.0.client.get(&self.0.path(""))?;
        if answer.status != 404 && !answer.is_moved() {
            return self.read(answer).map(Some);
        }
        let now = if answer.is_moved() { self.moved_to(&answer)? } else { None };
        for place in former {
            // A former name of another repository may redirect, so only a repository with this name counts.
            if now.as_ref().is_some_and(|now| !now.eq_ignore_ascii_case(&place.to_string())) {
                continue;
            }
            self.0.set_present(Some(place.clone()));
            let answer = self.0.client.get(&self.0.path(""))?;
            if answer.status == 200 {
                return self.read(answer).map(Some);
            }
        }
        self.0.set_present(None);
        if answer.is_moved() {
            let place = self.0.place.to_string();
            return Err(match now {
                Some(to) => Error::Renamed { place, to: Some(to) },
                None => answer.expect(&[200]).err().unwrap_or(Error::Renamed { place, to: None }),
            });
        }
        match absence::prove(self.0, earlier)? {
            Readable::Value(()) => Ok(None),
            Readable::Denied(refusal) => Err(Error::Blocked(vec![refusal])),
        }
    }

    /// Returns the name of the repository to which a redirect of GitHub points. Asks the forge itself,
    /// because a redirect must not decide where the token goes.
    fn moved_to(&self, answer: &Answer) -> Result<Option<String>, Error> {
        let Some(number) = answer.moved_number() else { return Ok(answer.moved_name()) };
        let now = self.0.client.get(&format!("/repositories/{number}"))?;
        let name = now.body["full_name"].as_str().filter(|_| now.status == 200);
        Ok(name.map(str::to_owned))
    }

    /// Returns the repository under its present name, which exists.
    fn present(&self) -> Result<ForgeRepository, Error> {
        let answer = self.0.client.get(&self.0.path(""))?;
        self.read(answer)
    }

    fn read(&self, answer: Answer) -> Result<ForgeRepository, Error> {
        let found = found(&answer.expect(&[200])?, self.0.forge)?;
        self.0.endpoint.owns(&found.git)?; // the response must not decide where the token goes
        Ok(found)
    }

    /// Returns whether the token may administer the repository `found`; `None` if the forge does not tell.
    /// GitHub reports the permissions of a user, and answers false to an installation of an App that may do
    /// everything (<https://github.com/lindell/multi-gitter/issues/224>).
    pub(crate) fn administrator(&self, found: &ForgeRepository) -> Result<Option<bool>, Error> {
        let is_untold = found.administrator == Some(false)
            && self.0.forge == Forge::GitHub
            && self.0.is_installation()?;
        Ok(found.administrator.filter(|_| !is_untold))
    }

    /// Returns the rules among `names`.
    pub(crate) fn rules(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<Readable<BTreeMap<String, Rule>>, Error> {
        match self.0.forge {
            Forge::GitHub => github::rules(self.0, names),
            Forge::Gitea => gitea::rules(self.0, names),
        }
    }

    /// Returns the rulesets of GitHub among `names` as the forge describes them.
    pub(crate) fn rulesets(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Value>, Error> {
        match github::rulesets(self.0, names)? {
            Readable::Value(answers) => {
                Ok(answers.into_iter().map(|(name, answer)| (name, answer.body)).collect())
            }
            Readable::Denied(refusal) => Err(Error::Blocked(vec![refusal])),
        }
    }

    /// Returns the names of the secrets, with the time of their last change.
    pub(crate) fn secrets(&self) -> Result<Readable<BTreeMap<String, Option<String>>>, Error> {
        let secrets = self.0.list(
            SECRETS,
            match self.0.forge {
                Forge::GitHub => |body| body["secrets"].as_array(),
                Forge::Gitea => Value::as_array,
            },
        )?;
        Ok(readable(secrets, |secret| {
            let updated_at = secret["updated_at"].as_str().map(str::to_owned);
            Some((secret["name"].as_str()?.to_owned(), updated_at))
        }))
    }

    /// Returns the values of the Actions variables, by name; the ownership record is one of them.
    pub(crate) fn variables(&self) -> Result<Readable<BTreeMap<String, String>>, Error> {
        let (list, value): (Items, _) = match self.0.forge {
            Forge::GitHub => (|body| body["variables"].as_array(), "value"),
            Forge::Gitea => (Value::as_array, "data"),
        };
        let variables = self.0.list(VARIABLES, list)?;
        Ok(readable(variables, |variable| {
            let text = |name: &str| variable[name].as_str().map(str::to_owned);
            Some((text("name")?, text(value)?))
        }))
    }

    /// Returns why the variables of `found` are needed and may not be read. Gitea shows them, and secrets, to
    /// owners alone (`reqOwner` in routers/api/v1/api.go of v1.26), and lets administrators do the rest.
    pub(crate) fn without_variables(&self, found: &ForgeRepository, refusal: Refusal) -> Refusal {
        if self.0.forge == Forge::Gitea && found.administrator == Some(true) {
            gitea::needs_owner(self.0, &refusal)
        } else {
            refusal
        }
    }

    /// Returns the deploy keys, by fingerprint.
    pub(crate) fn deploy_keys(&self) -> Result<Readable<BTreeMap<String, SeenKey>>, Error> {
        Ok(readable(self.0.list(KEYS, Value::as_array)?, |key| {
            let title = key["title"].as_str().unwrap_or_default().to_owned();
            let read_only = key["read_only"].as_bool().unwrap_or_default();
            let seen = SeenKey { id: key["id"].as_u64()?, title, read_only };
            Some((fingerprint(key["key"].as_str()?)?, seen))
        }))
    }
}

fn readable<T>(
    list: Result<Vec<Value>, Refusal>,
    item: impl Fn(&Value) -> Option<(String, T)>,
) -> Readable<BTreeMap<String, T>> {
    match list {
        Ok(items) => Readable::Value(items.iter().filter_map(item).collect()),
        Err(refusal) => Readable::Denied(refusal),
    }
}

/// Reads a repository from a response. Both forges agree except for the name of the homepage.
fn found(answer: &Answer, forge: Forge) -> Result<ForgeRepository, Error> {
    let body = &answer.body;
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let flag = |name: &str| body[name].as_bool().ok_or_else(|| answer.lacks(name));
    // Optional at GitHub (OpenAPI), and null at Forgejo for a repository without topics.
    let topics = body["topics"].as_array().map_or(&[][..], Vec::as_slice);
    let git = body["clone_url"].as_str().map(|url| Url::try_from(url.to_owned()));
    Ok(ForgeRepository {
        id: body["id"].as_u64().ok_or_else(|| answer.lacks("id"))?,
        administrator: body["permissions"]["admin"].as_bool(),
        archived: flag("archived")?,
        settings: Settings {
            description: Some(text("description")),
            homepage: Some(text(forge.homepage())),
            private: Some(flag("private")?),
            issues: Some(flag("has_issues")?),
            wiki: Some(flag("has_wiki")?),
            projects: Some(flag("has_projects")?),
        },
        topics: topics.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        pull_requests: body["has_pull_requests"] != false,
        releases: body["has_releases"] != false,
        empty: body["empty"] == true,
        discussions: body["has_discussions"] == true,
        default_branch: text("default_branch"),
        git: git.and_then(Result::ok).ok_or_else(|| answer.lacks("an https clone_url"))?,
        web: text("html_url"),
    })
}

impl<'a> Writer<'a> {
    pub(crate) fn new(remote: &'a Remote, _: &WritePermit) -> Self {
        Self(remote)
    }

    /// Creates an empty repository, and waits until it is readable.
    pub(crate) fn create(
        &self,
        description: &str,
        private: bool,
        branch: Option<&str>,
    ) -> Result<ForgeRepository, Error> {
        let Remote { client, place, forge, .. } = self.0;
        let path = self.0.creation_path()?;
        let mut body =
            json!({ "name": place.name, "description": description, "private": private });
        if let (Forge::Gitea, Some(branch)) = (forge, branch) {
            body["default_branch"] = branch.into();
        }
        client.write(&Method::POST, &path, Some(&body), &[201])?;
        client.has_created();
        Reader(self.0).find(None, &[])?.ok_or_else(|| Error::Forbidden {
            method: Method::GET.to_string(),
            path: self.0.path(""),
            message: "the repository was created, but the token may not see it".to_owned(),
            accepted: None,
        })
    }

    /// Renames the repository, and returns it under its new name.
    pub(crate) fn rename(&self, name: &str) -> Result<ForgeRepository, Error> {
        self.patch([("name", name.into())])?;
        let present = RepositorySlug { name: name.to_owned(), ..self.0.present() };
        self.0.set_present(Some(present).filter(|present| *present != self.0.place));
        Reader(self.0).present()
    }

    /// Transfers the repository to its declared owner, and returns it there. The forge works after its
    /// response, and a user must accept the transfer.
    pub(crate) fn transfer(&self) -> Result<ForgeRepository, Error> {
        let place = &self.0.place;
        let body = json!({ "new_owner": place.owner });
        self.0.write(&Method::POST, "/transfer", Some(&body), &[201, 202])?;
        let path = format!("/repos/{place}");
        for seconds in [0, 1, 2, 4, 8, 15] {
            documents::pause(Duration::from_secs(seconds))?;
            if self.0.client.get(&path)?.status == 200 {
                self.0.set_present(None);
                return Reader(self.0).present();
            }
        }
        Err(Error::TransferPending { place: place.to_string() })
    }

    pub(crate) fn change(&self, to: &Settings) -> Result<(), Error> {
        let Settings { description, homepage, private, issues, wiki, projects } = to;
        let fields = [
            ("description", json!(description)),
            (self.0.forge.homepage(), json!(homepage)),
            ("private", json!(private)),
            ("has_issues", json!(issues)),
            ("has_wiki", json!(wiki)),
            ("has_projects", json!(projects)),
        ];
        self.patch(fields.into_iter().filter(|(_, value)| !value.is_null()))
    }

    pub(crate) fn change_default_branch(&self, to: &str) -> Result<(), Error> {
        self.patch([("default_branch", to.into())])
    }

    pub(crate) fn archive(&self, archived: bool) -> Result<(), Error> {
        self.patch([("archived", archived.into())])
    }

    fn patch<'n>(&self, fields: impl IntoIterator<Item = (&'n str, Value)>) -> Result<(), Error> {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.0.write(&Method::PATCH, "", Some(&Value::Object(fields.collect())), &[200]).map(drop)
    }

    pub(crate) fn publish(&self) -> Result<(), Error> {
        self.patch([("private", false.into())])
    }

    /// Deletes the repository. Only 204 proves that, because 404 is also the response to a token
    /// without the permission.
    pub(crate) fn delete(&self) -> Result<(), Error> {
        self.0.write(&Method::DELETE, "", None, &[204])?;
        self.0.client.has_deleted();
        Ok(())
    }

    pub(crate) fn set_topics(&self, topics: &BTreeSet<String>) -> Result<(), Error> {
        let name = match self.0.forge {
            Forge::GitHub => "names",
            Forge::Gitea => "topics",
        };
        self.0.write(&Method::PUT, "/topics", Some(&json!({ name: topics })), &[200, 204]).map(drop)
    }

    pub(crate) fn put_rule(&self, name: &str, rule: &Rule) -> Result<(), Error> {
        match self.0.forge {
            Forge::GitHub => github::put_rule(self.0, name, rule),
            Forge::Gitea => gitea::put_rule(self.0, name, rule),
        }
    }

    pub(crate) fn remove_rule(&self, name: &str) -> Result<(), Error> {
        match self.0.forge {
            Forge::GitHub => github::remove_rule(self.0, name),
            Forge::Gitea => gitea::remove_rule(self.0, name),
        }
    }

    pub(crate) fn write_secret(&self, name: &str, value: &str) -> Result<(), Error> {
        match self.0.forge {
            Forge::GitHub => github::write_secret(self.0, name, value),
            Forge::Gitea => gitea::write_secret(self.0, name, value),
        }
    }

    pub(crate) fn remove_secret(&self, name: &str) -> Result<(), Error> {
        let below = format!("{SECRETS}/{name}");
        self.0.write(&Method::DELETE, &below, None, &[204, 404]).map(drop)
    }

    pub(crate) fn add_deploy_key(&self, title: &str, key: &str) -> Result<(), Error> {
        let body = json!({ "title": title, "key": key, "read_only": true });
        self.0.write(&Method::POST, KEYS, Some(&body), &[201]).map(drop)
    }

    pub(crate) fn remove_deploy_key(&self, id: u64) -> Result<(), Error> {
        let below = format!("{KEYS}/{id}");
        self.0.write(&Method::DELETE, &below, None, &[204, 404]).map(drop)
    }

    /// Writes an Actions variable. `known` says whether to replace an existing one.
    pub(crate) fn write_variable(&self, name: &str, text: &str, known: bool) -> Result<(), Error> {
        let named = format!("{VARIABLES}/{name}");
        let whole = json!({ "name": name, "value": text });
        let (method, below, body) = match (self.0.forge, known) {
            (Forge::GitHub, false) => (Method::POST, VARIABLES, whole),
            (Forge::GitHub, true) => (Method::PATCH, &*named, whole),
            (Forge::Gitea, false) => (Method::POST, &*named, json!({ "value": text })),
            (Forge::Gitea, true) => (Method::PUT, &*named, json!({ "value": text })),
        };
        self.0.write(&method, below, Some(&body), &[200, 201, 204]).map(drop)
    }

    pub(crate) fn remove_variable(&self, name: &str) -> Result<(), Error> {
        let below = format!("{VARIABLES}/{name}");
        self.0.write(&Method::DELETE, &below, None, &[204, 404]).map(drop)
    }
}

/// Returns an Ed25519 public key in OpenSSH's form: type and key, each with its length.
pub(crate) fn openssh(key: &[u8; 32]) -> String {
    const TYPE: &str = "ssh-ed25519";
    let part = |part: &[u8]| {
        [&u32::try_from(part.len()).unwrap_or_default().to_be_bytes()[..], part].concat()
    };
    let blob = [part(TYPE.as_bytes()), part(key)].concat();
    format!("{TYPE} {}", BASE64.encode(&blob))
}

/// Returns the fingerprint of a public key, as `ssh-keygen -l` prints it. The key's comment is
/// ignored.
pub(crate) fn fingerprint(key: &str) -> Option<String> {
    let blob = BASE64.decode(key.split_whitespace().nth(1)?.as_bytes()).ok()?;
    Some(format!("SHA256:{}", BASE64_NOPAD.encode(&Sha256::digest(blob))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_equals_that_of_ssh_keygen() {
        // `ssh-keygen -t ed25519`, then `-l`, with OpenSSH 9.2.
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII6IUqST+ANliC35BtkqlSANmQ0LRbALyhW7I3EIg1gX user@example.org";
        assert_eq!(
            fingerprint(key).as_deref(),
            Some("SHA256:IbBtrX+dCalYRzSW/wdn5QKSPhDM2bQsVnzbJhytebg")
        );
        let blob = BASE64.decode(key.split(' ').nth(1).unwrap_or_default().as_bytes());
        let blob: [u8; 32] = blob.expect("base64")[19..].try_into().expect("32 bytes");
        assert!(key.starts_with(&openssh(&blob)));
    }
}
