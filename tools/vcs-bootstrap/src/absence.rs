//! Proves that a repository does not exist. A 404 alone proves nothing because a forge also sends
//! it for repositories that the token may not see.
//!
//! **Invariant:** without a proof, the repository is unknown: it is neither created nor reported as
//! destroyed.

use ::remote::percent_encode;
use documents::Reason;
use serde_json::Value;

use crate::Error;
use crate::clients::answer::Answer;
use crate::clients::connection::{Caller, Forge, Remote};
use crate::model::{Readable, Refusal};

/// Proves that the repository does not exist: the token sees every repository of the owner, and not
/// this one.
pub(crate) fn prove(remote: &Remote, earlier: Option<u64>) -> Result<Readable<()>, Error> {
    if remote.client.has_been_deleted() {
        return Ok(Readable::Value(()));
    }
    let why = match remote.forge {
        Forge::GitHub => github(remote)?,
        Forge::Gitea => gitea(remote)?,
    };
    if let Some(why) = why {
        return Ok(Readable::Denied(unknown(remote, &why)));
    }
    // A repository that an earlier run saw keeps its number under every name.
    let Some(id) = earlier else { return Ok(Readable::Value(())) };
    let answer = remote.client.get(&format!("/repositories/{id}"))?;
    match answer.status {
        404 => Ok(Readable::Value(())),
        200 => {
            let to = answer.body["full_name"].as_str().map(str::to_owned);
            Err(Error::Renamed { place: remote.place.to_string(), to })
        }
        status => {
            let why = format!("the forge answered status {status} for repository number {id}");
            Ok(Readable::Denied(unknown(remote, &why)))
        }
    }
}

fn unknown(remote: &Remote, why: &str) -> Refusal {
    Refusal {
        reason: Reason::AbsenceUnproven,
        what: format!(
            "it is not known whether {} exists: the forge answered 404, and {why}",
            remote.place
        ),
        help: "use a token of the owner (for an organisation: of one of its owners) that may see \
               all of its repositories: at GitHub a classic token with the scope `repo`, or a \
               fine-grained token for all repositories, or an App that is installed for all \
               repositories; then run the same again"
            .to_owned(),
    }
}

/// Returns the reason why the token may not see every repository; `None` if it sees all of them.
///
/// A classic token names its scopes in `X-OAuth-Scopes`, and `repo` covers every repository that
/// its user can see.
/// <https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps> A
/// fine-grained token has no scopes and may be for selected repositories. Then the forge's own
/// count of the owner's repositories must equal the number of those that it lists.
fn github(remote: &Remote) -> Result<Option<String>, Error> {
    let user = match remote.caller()? {
        Caller::User(user) => user.as_ref().clone(),
        Caller::Installation => return installation(remote),
        Caller::Unknown(answer) => return Ok(Some(refused("/user", answer))),
    };
    let Some(login) = known_text(&user, "login").map(str::to_owned) else {
        return Ok(Some(refused("/user", &user)));
    };
    let owner = &remote.place.owner;
    let sees_all = user
        .scopes
        .as_deref()
        .is_some_and(|scopes| scopes.split(',').any(|scope| scope.trim() == "repo"));
    let mine = login.eq_ignore_ascii_case(owner);
    let (counts, list) = if mine {
        (user, "/user/repos?affiliation=owner".to_owned())
    } else {
        let path = format!("/user/memberships/orgs/{owner}");
        let membership = remote.client.get(&path)?;
        if membership.status != 200 {
            return Ok(Some(refused(&path, &membership)));
        }
        let is = |name: &str, value: &str| membership.body[name] == value;
        if !is("state", "active") || !is("role", "admin") {
            return Ok(Some(format!("the token's user {login} is no owner of {owner}")));
        }
        if sees_all {
            return Ok(None);
        }
        let path = format!("/orgs/{owner}");
        (remote.client.get(&path)?, format!("{path}/repos?type=all"))
    };
    if sees_all {
        return Ok(None);
    }
    let number = |name: &str| counts.body[name].as_u64();
    let count = number("public_repos").zip(number("owned_private_repos"));
    let Some(count) = count.map(|(public, private)| public.saturating_add(private)) else {
        return Ok(Some("the token may not see how many repositories the owner has".to_owned()));
    };
    let listed = match remote.client.list(&list, "per_page=100", Value::as_array)? {
        Ok(listed) => listed,
        Err(refusal) => return Ok(Some(refusal.what)),
    };
    Ok((listed.len() as u64 != count).then(|| {
        format!("the owner has {count} repositories, of which the token sees {}", listed.len())
    }))
}

/// Returns the reason why an installation of an App may not see every repository of the owner. An
/// installation for all repositories includes those that are created later
/// (<https://docs.github.com/en/rest/apps/installations#list-repositories-accessible-to-the-app-installation>).
fn installation(remote: &Remote) -> Result<Option<String>, Error> {
    let path = "/installation/repositories?per_page=1";
    let answer = remote.client.get(path)?;
    if answer.status != 200 {
        return Ok(Some(refused(path, &answer)));
    }
    if answer.body["repository_selection"] != "all" {
        return Ok(Some("the App is installed for selected repositories only".to_owned()));
    }
    // A token from the App's key is of the installation at the owner. Another token may be of any.
    let account = &answer.body["repositories"][0]["owner"]["login"];
    let is_of_owner = account.as_str().map(|login| login.eq_ignore_ascii_case(&remote.place.owner));
    Ok(match is_of_owner {
        is_of_owner if remote.client.is_app() || is_of_owner == Some(true) => None,
        Some(_) => Some(format!("the App's installation is not at {}", remote.place.owner)),
        None => {
            Some("the App's installation lists no repository, so its owner is unknown".to_owned())
        }
    })
}

/// Returns the reason why the token may not see every repository. Administrators of the instance,
/// the owner, and owners of the organisation see everything. Members of other teams see their
/// team's repositories.
fn gitea(remote: &Remote) -> Result<Option<String>, Error> {
    let user = remote.client.get("/user")?;
    let Some(login) = known_text(&user, "login") else { return Ok(Some(refused("/user", &user))) };
    let owner = &remote.place.owner;
    if user.body["is_admin"] == true || login.eq_ignore_ascii_case(owner) {
        return Ok(None);
    }
    let login = percent_encode(login); // the forge's text must not change the path
    let path = format!("/users/{login}/orgs/{owner}/permissions");
    let permissions = remote.client.get(&path)?;
    if permissions.status != 200 {
        return Ok(Some(refused(&path, &permissions)));
    }
    let owns = permissions.body["is_owner"] == true || permissions.body["is_admin"] == true;
    Ok((!owns).then(|| format!("the token's user {login} is no owner of {owner}")))
}

fn known_text<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.body[name].as_str().filter(|text| answer.status == 200 && !text.is_empty())
}

fn refused(path: &str, answer: &Answer) -> String {
    format!("the token may not read {path} (status {})", answer.status)
}
