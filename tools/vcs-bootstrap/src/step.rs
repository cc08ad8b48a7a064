//! One change to a repository, as a plan shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use documents::Effect;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{OwnershipRecord, Rule, Settings};

/// One change to a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Step {
    /// Create the repository, empty.
    Create {
        /// Whether only the owner and invited collaborators can see it, from its first moment.
        private: bool,
    },
    /// Rename the repository.
    Rename {
        /// Present name.
        from: String,
        /// Declared name.
        to: String,
    },
    /// Transfer the repository to another owner.
    Transfer {
        /// Present owner.
        from: String,
        /// Declared owner.
        to: String,
    },
    /// Unarchive the repository, which `destroy` archived and which is declared again.
    Unarchive {},
    /// Write the ownership record: a signed Actions variable that lists what this program created.
    Record {
        /// Content of the ownership record.
        receipt: OwnershipRecord,
        /// Secrets whose time of writing is read back first, because the forge sets it.
        times_of: BTreeSet<String>,
    },
    /// Change settings of the repository.
    ChangeSettings {
        /// Present values of the settings that change.
        from: Settings,
        /// Declared values of the settings that change.
        to: Settings,
    },
    /// Upload the contents of files in Git LFS that the pushed history names, if the forge lacks them.
    UploadLfsObjects {
        /// Number of objects. Files with the same content are one object.
        objects: usize,
        /// Size of all objects in bytes.
        bytes: u64,
    },
    /// Push a branch, as a fast-forward.
    Push {
        /// Branch, for example `main`.
        branch: String,
        /// Commit of the branch at the forge; absent when the branch does not exist.
        from: Option<String>,
        /// Commit that is pushed.
        to: String,
        /// Tags that are pushed with the branch, with their objects.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        tags: BTreeMap<String, String>,
    },
    /// Push tags whose commits the forge has.
    PushTags {
        /// Tags, with their objects.
        tags: BTreeMap<String, String>,
    },
    /// Change the default branch.
    ChangeDefaultBranch {
        /// Present default branch, for example `master`.
        from: String,
        /// Declared default branch, for example `main`.
        to: String,
    },
    /// Replace the list of topics.
    SetTopics {
        /// Topics before the change.
        from: BTreeSet<String>,
        /// Topics after the change.
        to: BTreeSet<String>,
    },
    /// Write a secret. A plan never holds its value.
    WriteSecret {
        /// Name of the secret, for example `REGISTRY_TOKEN`.
        name: String,
        /// Why the secret is not known to hold the declared value.
        because: Because,
    },
    /// Write an Actions variable.
    WriteVariable {
        /// Name of the variable, for example `REGISTRY`.
        name: String,
        /// Present value; absent when the variable does not exist.
        from: Option<String>,
        /// Declared value.
        to: String,
    },
    /// Add a deploy key, which can only read.
    AddDeployKey {
        /// Fingerprint as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// Title that the forge shows.
        title: String,
        /// Public key in OpenSSH's format.
        key: String,
    },
    /// Create or replace a rule for branches.
    PutRule {
        /// Name of the rule.
        name: String,
        /// Present rule; absent when no rule has this name.
        from: Option<Rule>,
        /// Rule that the document declares.
        to: Rule,
        /// Protections that the present rule has and the declared one lacks.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        weakens: Vec<String>,
    },
    /// Make a private repository public, with all of its history. This cannot be undone, because
    /// others may have copied it.
    Publish {},
    /// Remove a rule that this program created and that is no longer declared.
    RemoveRule {
        /// Name of the rule.
        name: String,
    },
    /// Remove a secret that this program wrote and that is no longer declared.
    RemoveSecret {
        /// Name of the secret.
        name: String,
    },
    /// Remove an Actions variable that this program created and that is no longer declared.
    RemoveVariable {
        /// Name of the variable.
        name: String,
    },
    /// Remove a deploy key that is no longer declared, or that can write.
    RemoveDeployKey {
        /// Fingerprint as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// The forge's number for the key.
        id: u64,
    },
    /// Remove the ownership record from a repository that others created, after everything that this
    /// program created in it was removed.
    Forget {},
    /// Archive the repository, which makes it read-only.
    Archive {},
    /// Delete the repository with all of its contents.
    Delete {},
}

/// Reason why a secret has to be written. Forges never return the value of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Because {
    /// The secret does not exist.
    Absent,
    /// The secret exists, and the ownership record does not list it.
    Unrecorded,
    /// The declared value has changed.
    Changed,
    /// Another writer has replaced the value since.
    WrittenByOthers,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "it does not exist",
            Self::Unrecorded => "its value is unknown",
            Self::Changed => "its declared value has changed",
            Self::WrittenByOthers => "another writer has replaced its value",
        })
    }
}

impl documents::Step for Step {
    fn effect(&self) -> Effect {
        match self {
            Self::Create { .. }
            | Self::AddDeployKey { .. }
            | Self::WriteSecret { because: Because::Absent, .. }
            | Self::PutRule { from: None, .. }
            | Self::WriteVariable { from: None, .. }
            | Self::UploadLfsObjects { .. }
            | Self::PushTags { .. }
            | Self::Push { from: None, .. } => Effect::Create,
            Self::Rename { .. }
            | Self::Transfer { .. }
            | Self::WriteVariable { .. }
            | Self::Unarchive {}
            | Self::Record { .. }
            | Self::ChangeSettings { .. }
            | Self::Push { .. }
            | Self::ChangeDefaultBranch { .. }
            | Self::SetTopics { .. }
            | Self::WriteSecret { .. }
            | Self::PutRule { .. }
            | Self::Publish {}
            | Self::Archive {} => Effect::Change,
            Self::RemoveRule { .. }
            | Self::RemoveSecret { .. }
            | Self::RemoveVariable { .. }
            | Self::RemoveDeployKey { .. }
            | Self::Forget {}
            | Self::Delete {} => Effect::Remove,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { private: true } => write!(f, "create the private repository"),
            Self::Create { private: false } => write!(f, "create the public repository"),
            Self::Rename { from, to } => write!(f, "rename the repository: {from} → {to}"),
            Self::Transfer { from, to } => write!(f, "transfer the repository: {from} → {to}"),
            Self::Unarchive {} => write!(f, "unarchive the repository"),
            Self::Record { .. } => write!(f, "record what vcs-bootstrap made"),
            Self::ChangeSettings { from, to } => {
                write!(f, "change settings: {}", differences(&json!(from), &json!(to)))
            }
            Self::UploadLfsObjects { objects, bytes } => {
                let plural = if *objects == 1 { "" } else { "s" };
                write!(f, "upload {objects} object{plural} of Git LFS: {bytes} bytes")
            }
            Self::Push { branch, from, to, tags } => {
                let from =
                    from.as_ref().map_or(String::new(), |from| short(from).to_owned() + " → ");
                write!(f, "push {branch}: {from}{}", short(to))?;
                if tags.is_empty() { Ok(()) } else { write!(f, ", with tags {}", names(tags)) }
            }
            Self::PushTags { tags } => write!(f, "push tags {}", names(tags)),
            Self::ChangeDefaultBranch { from, to } => {
                write!(f, "change default branch: {from} → {to}")
            }
            Self::SetTopics { from, to } => {
                let added = to.difference(from).map(|topic| format!("+{topic}"));
                let removed = from.difference(to).map(|topic| format!("-{topic}"));
                let changes: Vec<_> = added.chain(removed).collect();
                write!(f, "change topics: {}", changes.join(", "))
            }
            Self::WriteSecret { name, because } => write!(f, "write secret {name}: {because}"),
            Self::WriteVariable { name, from, to } => {
                let from = from.as_ref().map_or(String::new(), |from| format!("{from:?} → "));
                write!(f, "write variable {name}: {from}{to:?}")
            }
            Self::AddDeployKey { title, .. } => write!(f, "add deploy key {title}"),
            Self::PutRule { name, from: None, .. } => write!(f, "create rule {name}"),
            Self::PutRule { name, from: Some(from), to, weakens } => {
                write!(f, "change rule {name}: {}", differences(&json!(from), &json!(to)))?;
                if weakens.is_empty() { Ok(()) } else { write!(f, " ({})", weakens.join(", ")) }
            }
            Self::Publish {} => write!(f, "publish: everybody can read the repository"),
            Self::RemoveRule { name } => write!(f, "remove rule {name}"),
            Self::RemoveSecret { name } => write!(f, "remove secret {name}"),
            Self::RemoveVariable { name } => write!(f, "remove variable {name}"),
            Self::RemoveDeployKey { fingerprint, .. } => {
                write!(f, "remove deploy key {fingerprint}")
            }
            Self::Forget {} => write!(f, "remove the record of what vcs-bootstrap made"),
            Self::Archive {} => write!(f, "archive the repository"),
            Self::Delete {} => write!(f, "delete the repository and all of its contents"),
        }
    }
}

fn names(tags: &BTreeMap<String, String>) -> String {
    tags.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Returns the first characters of a commit, as Git abbreviates it.
fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Returns the fields of `to` that differ from `from`, for example `wiki: true → false`. A field that
/// only one of the two has is shown as `none` in the other.
fn differences(from: &Value, to: &Value) -> String {
    let mut names: BTreeSet<&String> = BTreeSet::new();
    for side in [from, to] {
        names.extend(side.as_object().into_iter().flat_map(serde_json::Map::keys));
    }
    let differing = names.into_iter().filter(|name| from[*name] != to[*name]);
    let text = |value: &Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
    let change = |name: &String| format!("{name}: {} → {}", text(&from[name]), text(&to[name]));
    differing.map(change).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_of_settings_shows_old_and_new_values() {
        let settings = |wiki, description: &str| Settings {
            wiki: Some(wiki),
            description: Some(description.to_owned()),
            ..Settings::default()
        };
        let step = Step::ChangeSettings { from: settings(true, "old"), to: settings(false, "new") };
        assert_eq!(
            step.to_string(),
            r#"change settings: description: "old" → "new", wiki: true → false"#
        );
    }

    #[test]
    fn step_is_flat_json_with_an_action() {
        let step = Step::RemoveRule { name: "main".to_owned() };
        assert_eq!(json!(step), json!({"action": "removeRule", "name": "main"}));
        assert_eq!(json!(Step::Delete {}), json!({"action": "delete"}));
    }
}
