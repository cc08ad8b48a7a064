//! Writes new names and recipients into the documents of a project. The text of the documents is
//! edited, so that comments stay.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use documents::Stream;
use secrets::AgeRecipient;

use crate::Error;
use crate::files::cannot;

/// Folders and files of a project that hold documents.
const FOLDERS: [&str; 6] = ["project", "sources", "machines", "deployments", "lab", "tools/images"];

/// Document that names the project.
const PROJECT: &str = "project/project.yaml";
/// Document that names the account.
const REPOSITORY: &str = "project/repository.yaml";

/// Old and new names of the project and of the account at the vendors.
pub(super) struct Names<'a> {
    old_name: String,
    old_owner: String,
    name: &'a str,
    owner: &'a str,
}

/// Recipients who will be able to decrypt sealed values, and the public keys of the project.
pub(super) struct Recipients<'a> {
    pub(super) founder: &'a AgeRecipient,
    /// Recipient of `flux-seed`, derived from the root: CI delivers with this key alone.
    pub(super) phase: &'a AgeRecipient,
    /// Recipient of `reader`, derived from the root: jobs of pull requests plan with this key.
    pub(super) reader: &'a AgeRecipient,
    /// Public keys that verify artifacts and receipts, so that verification needs no secret.
    pub(super) keys: &'a (String, String),
    /// File of the founder's identity.
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

    /// Returns every file that changes, with its new text.
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
                // Publishing is the user's own decision.
                new = replace(&new, "visibility: ", "public", "private");
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

/// Returns the rules of `.sops.yaml`, by which `sops` encrypts
/// (<https://github.com/getsops/sops#using-sops-yaml-conf-to-select-kms-pgp-and-age-for-new-files>).
pub(super) fn sops_rules(founder: &AgeRecipient, file: &Path) -> String {
    format!(
        "---\n# Recipients who can decrypt the secrets of this project: `sops edit project/secrets.yaml` needs the identity of one of them.\n\
         creation_rules:\n    - path_regex: ^project/secrets\\.yaml$\n      age: {founder} # {}\n",
        file.display()
    )
}

/// Returns every age recipient in `text`.
pub(super) fn recipients(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with("age1") && word.len() == 62)
}

/// Returns the YAML files below `path`, or `path` itself if it is a YAML file.
fn files(path: &Path) -> Vec<PathBuf> {
    let is_yaml =
        |path: &Path| path.extension().is_some_and(|name| name == "yaml" || name == "yml");
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

/// Returns `text` with `new` wherever `old` follows `field` as a whole word.
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

/// Returns `text` with every list of recipients reduced to `founder`, the only one of the published
/// names that a new project has.
fn known_recipients(text: &str) -> String {
    const FIELD: &str = "recipients: [";
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(FIELD) {
        let Some((names, after)) = after.split_once(']') else { break };
        let known: Vec<_> =
            names.split(',').map(str::trim).filter(|name| *name == "founder").collect();
        let _ = write!(replaced, "{before}{FIELD}{}]", known.join(", "));
        rest = after;
    }
    replaced + rest
}

/// Returns the `text` of a Project with new recipients and keys, or `None` if the text has no list
/// of recipients.
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
                 # Derived: the CI context that delivers decrypts the kubeconfig with FLUX_SEED_KEY and holds no other secret.\n    \
                 # When the root or the generation of `flux-seed` changes, `flux-seed` prints the new recipient for this line.\n    \
                 - {{name: flux-seed, age: {phase}}}\n    \
                 # Derived: jobs of pull requests plan with READER_KEY, which decrypts read-only credentials and no others.\n    \
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
    fn a_list_of_recipients_keeps_only_the_founder() {
        let text = "a\n  recipients: [founder, vault] # b\n  recipients: [founder]\nrecipients: [";
        let expected = "a\n  recipients: [founder] # b\n  recipients: [founder]\nrecipients: [";
        assert_eq!(known_recipients(text), expected);
    }
}
