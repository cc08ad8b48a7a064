//! The documents of a project with other names and other recipients: their text is edited, so that
//! comments stay.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use documents::Stream;
use keyring::AgeRecipient;

use crate::Error;
use crate::files::cannot;

/// Where a project keeps its documents.
const FOLDERS: [&str; 5] =
    ["project", "sources", "machines", "deployments", "tools/artifacts.yaml"];

/// The documents that name the project and the account.
const PROJECT: &str = "project/project.yaml";
const REPOSITORY: &str = "project/repository.yaml";

/// What the project and the account at the vendors are called, and what they will be.
pub(super) struct Names<'a> {
    old_name: String,
    old_owner: String,
    name: &'a str,
    owner: &'a str,
}

/// Who will be able to open what is sealed.
pub(super) struct Recipients<'a> {
    pub(super) founder: &'a AgeRecipient,
    /// Derives from the root: CI delivers with the key of `flux-seed` alone.
    pub(super) phase: &'a AgeRecipient,
    /// Derives from the root: jobs of pull requests plan with the key of `reader`.
    pub(super) reader: &'a AgeRecipient,
    /// What verifies artifacts and receipts, so that whoever checks needs no secret.
    pub(super) keys: &'a (String, String),
    /// The identity of the founder.
    pub(super) file: &'a Path,
}

impl<'a> Names<'a> {
    /// Reads the names in the documents below `root`.
    pub(super) fn read(root: &Path, name: &'a str, owner: &'a str) -> Result<Self, Error> {
        let field = |file: &'static str, kind: &str, pointer: &str| {
            let stream = Stream::read(&[root.join(file)]);
            let mut found = stream.documents().filter(|document| document["kind"] == kind);
            let text = found.next().and_then(|document| document.pointer(pointer)?.as_str());
            text.map(str::to_owned).ok_or(Error::InitDocument { file })
        };
        let old_name = field(PROJECT, "Project", "/metadata/name")?;
        let old_owner = field(REPOSITORY, "Repository", "/spec/owner")?;
        Ok(Self { old_name, old_owner, name, owner })
    }

    /// Every document that changes, and its new text.
    pub(super) fn documents(
        &self,
        root: &Path,
        recipients: &Recipients<'_>,
    ) -> Result<Vec<(PathBuf, String)>, Error> {
        let mut changed = Vec::new();
        for path in FOLDERS.iter().flat_map(|folder| files(&root.join(folder))) {
            let text = fs::read_to_string(&path).map_err(cannot("read", &path))?;
            if !text.contains("holistic/") {
                continue;
            }
            let mut new = replace(&text, "project: ", &self.old_name, self.name);
            new = replace(&new, "forge: ", &self.old_name, self.name);
            new = known_recipients(&new);
            if path == root.join(PROJECT) || path == root.join(REPOSITORY) {
                new = replace(&new, "name: ", &self.old_name, self.name);
                new = replace(&new, "owner: ", &self.old_owner, self.owner);
                new = replace(&new, "user: ", &self.old_owner, self.owner);
                let (old, owner) = (self.old_owner.to_lowercase(), self.owner.to_lowercase());
                new = replace(&new, "ghcr.io/", &old, &owner);
                let (old, bucket) =
                    (format!("{}-drain", self.old_name), format!("{}-drain", self.name));
                new = replace(&new, "bucket: ", &old, &bucket);
            }
            if path == root.join(PROJECT) {
                new = with_recipients(&new, recipients)
                    .ok_or(Error::InitDocument { file: PROJECT })?;
            }
            if new != text {
                changed.push((path, new));
            }
        }
        Ok(changed)
    }
}

/// The rules by which `sops` encrypts.
pub(super) fn sops_rules(founder: &AgeRecipient, file: &Path) -> String {
    format!(
        "---\n# Who can open the secrets of this project: `sops edit project/secrets.yaml` asks for one of them.\n\
         creation_rules:\n    - path_regex: ^project/secrets\\.yaml$\n      age: {founder} # {}\n",
        file.display()
    )
}

/// Every age recipient that is written in `text`.
pub(super) fn recipients(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with("age1") && word.len() == 62)
}

/// The YAML files at `path`, which may be one itself.
fn files(path: &Path) -> Vec<PathBuf> {
    let is_yaml = |path: &Path| path.extension().is_some_and(|it| it == "yaml" || it == "yml");
    if path.is_file() && is_yaml(path) {
        return vec![path.to_owned()];
    }
    let mut inside: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().collect();
    inside.sort_by_key(fs::DirEntry::file_name);
    let inside = inside.into_iter().filter(|entry| {
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        !is_link
            && !entry.file_name().as_encoded_bytes().starts_with(b".")
            && entry.file_name() != "target"
    });
    inside.flat_map(|entry| files(&entry.path())).collect()
}

/// `text` with `new` wherever `old` follows `field` as a whole word.
fn replace(text: &str, field: &str, old: &str, new: &str) -> String {
    let sought = format!("{field}{old}");
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(&sought) {
        let (before, after) = (&rest[..start], &rest[start + sought.len()..]);
        let in_word =
            |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        let is_whole = !before.ends_with(in_word) && !after.starts_with(in_word);
        replaced.push_str(before);
        replaced.push_str(field);
        replaced.push_str(if is_whole { new } else { old });
        rest = after;
    }
    replaced + rest
}

/// `text`, in which lists of recipients by name have none that a new project lacks.
fn known_recipients(text: &str) -> String {
    const FIELD: &str = "recipients: [";
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(FIELD) {
        let Some((names, after)) = after.split_once(']') else { break };
        let known: Vec<_> = names.split(',').map(str::trim).filter(|it| *it == "founder").collect();
        let _ = write!(replaced, "{before}{FIELD}{}]", known.join(", "));
        rest = after;
    }
    replaced + rest
}

/// `text` of a Project with these recipients in place of its own; `None` if it has no such list.
fn with_recipients(text: &str, recipients: &Recipients<'_>) -> Option<String> {
    const RECIPIENTS: &str = "  recipients:";
    const KEYS: &str = "  verificationKeys:";
    let Recipients { founder, phase, reader, keys: (artifacts, receipts), file } = recipients;
    let keys = format!("{KEYS}\n    artifacts: [{artifacts}]\n    receipts: [{receipts}]\n");
    let mut has_keys = text.lines().any(|line| line.starts_with(KEYS));
    let (mut lines, mut replaced, mut found) = (text.lines().peekable(), String::new(), false);
    while let Some(line) = lines.next() {
        let is_keys = line.starts_with(KEYS);
        if !is_keys {
            let _ = writeln!(replaced, "{line}");
        }
        if !is_keys && !line.starts_with(RECIPIENTS) {
            continue;
        }
        while lines.next_if(|line| line.starts_with("    ")).is_some() {}
        if !is_keys {
            found = true;
            let _ = write!(
                replaced,
                "    - {{name: founder, age: {founder}}} # {}\n    \
                 # Derived: the context of CI that delivers opens the kubeconfig with FLUX_SEED_KEY, and holds no other secret.\n    \
                 # `flux-seed` says what to write here when the root, or that phase's generation, has changed.\n    \
                 - {{name: flux-seed, age: {phase}}}\n    \
                 # Derived: jobs of pull requests plan with READER_KEY, which opens credentials that read, and no others.\n    \
                 - {{name: reader, age: {reader}, access: reader}}\n",
                file.display()
            );
        }
        if is_keys || !has_keys {
            has_keys = true;
            replaced.push_str(&keys);
        }
    }
    found.then_some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_replaced_where_it_is_a_whole_word_after_its_field() {
        let text = "project: example\nproject: example-two\nmyproject: example\n{project: example, a: b}\n";
        let expected =
            "project: mine\nproject: example-two\nmyproject: example\n{project: mine, a: b}\n";
        assert_eq!(replace(text, "project: ", "example", "mine"), expected);
    }

    #[test]
    fn a_list_of_recipients_keeps_those_that_a_new_project_has() {
        let text = "a\n  recipients: [founder, vault] # b\n  recipients: [founder]\nrecipients: [";
        let expected = "a\n  recipients: [founder] # b\n  recipients: [founder]\nrecipients: [";
        assert_eq!(known_recipients(text), expected);
    }
}
