//! `lab init`: replaces the published secrets and names with the user's own.
//!
//! **Invariant:** a file with secrets of the user's own is never overwritten: every check comes
//! before the first write.

mod rewrite;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use documents::Name;
use secrets::{AgeRecipient, Identities, Secret};

use crate::Error;
use crate::files::{cannot, settle};
use rewrite::{Names, Recipients};

/// Path of the file of secrets, relative to the root of the repository.
const SECRETS: &str = "project/secrets.yaml";

/// Every value of that file except the root: its key, and the environment variable that may hold
/// it.
const VALUES: [(&str, &str); 9] = [
    ("github", "GITHUB_TOKEN"),
    ("ghcr", "GHCR_TOKEN"),
    ("ghcrReader", "GHCR_READ_TOKEN"),
    ("hetzner", "HCLOUD_TOKEN"),
    ("hetznerReader", "HCLOUD_READ_TOKEN"),
    ("s3.accessKeyId", "S3_ACCESS_KEY_ID"),
    ("s3.secretAccessKey", "S3_SECRET_ACCESS_KEY"),
    ("s3Reader.accessKeyId", "S3_READER_ACCESS_KEY_ID"),
    ("s3Reader.secretAccessKey", "S3_READER_SECRET_ACCESS_KEY"),
];

/// Permissions of files that are committed.
const MODE: u32 = 0o644;

/// Value of a token that was not given. The vendor rejects it, so a run fails with the vendor's
/// error.
const PLACEHOLDER: &str = "replace-me";

/// Creates an identity, a root and the file of secrets, and writes `name`, `owner` and the
/// recipients into the documents below `root`. An identity that exists in `identity`, or in the file
/// that SOPS reads, is used instead of a new one.
pub(crate) fn init(
    root: &Path,
    name: &str,
    owner: &str,
    identity: Option<&Path>,
) -> Result<(), Error> {
    let name = Name::try_from(name.to_owned()).map_err(|why| wrong("NAME", &why))?;
    let is_owner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if owner.is_empty() || owner.len() > 39 || !owner.bytes().all(is_owner) {
        return Err(wrong(
            "OWNER",
            "not an account name: 1 to 39 characters of a-z, A-Z, 0-9 and -",
        ));
    }
    is_replaceable(root)?;
    let names = Names::read(root, name.as_str(), owner)?;
    let file = identity.map_or_else(default_identity, |file| Ok(file.to_owned()))?;
    is_outside(root, &file)?;

    let (founder, is_new) = match existing(&file)? {
        Some(recipient) => (recipient, false),
        None => (create_identity(&file)?, true),
    };
    let secret = secrets::new_root()?;
    let derived = |phase| secrets::phase_recipient(&secret, name.as_str(), phase);
    let (phase, reader) = (derived("flux-seed")?, derived(contract::READER)?);
    let keys = contract::verification_keys(&secret, name.as_str())?;
    let (entries, missing) = entries(secret);
    let text = secrets::encrypt(&entries, std::slice::from_ref(&founder), &now())?;

    let recipients =
        Recipients { founder: &founder, phase: &phase, reader: &reader, keys: &keys, file: &file };
    let changed = names.documents(root, &recipients)?;
    settle(&root.join(SECRETS), text.as_bytes(), MODE)?;
    let rules = rewrite::sops_rules(&founder, &file);
    settle(&root.join(".sops.yaml"), rules.as_bytes(), MODE)?;
    for (path, text) in &changed {
        settle(path, text.as_bytes(), MODE)?;
    }
    let removed = remove_published_identities(root)?;
    report(&file, is_new, &changed, &removed, &missing);
    Ok(())
}

fn wrong(what: &'static str, why: &str) -> Error {
    Error::InitArgument { what, why: why.to_owned() }
}

/// Checks that the existing files are the published ones, which protect nothing.
fn is_replaceable(root: &Path) -> Result<(), Error> {
    for name in [SECRETS, ".sops.yaml", "project/project.yaml"] {
        let path = root.join(name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let recipients: Vec<_> = rewrite::recipients(&text).collect();
        let is_private = recipients.iter().any(|recipient| !contract::is_published(recipient));
        if is_private || (name == SECRETS && recipients.is_empty()) {
            return Err(Error::InitOwn { path });
        }
    }
    Ok(())
}

/// Returns the file in which SOPS and the programs look for identities
/// (<https://github.com/getsops/sops#encrypting-using-age>).
fn default_identity() -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    let config = config.ok_or_else(|| wrong("HOME", "not set, and --identity is not given"))?;
    Ok(config.join("sops/age/keys.txt"))
}

/// Checks that `file` is outside the repository, because an identity inside would be committed.
fn is_outside(root: &Path, file: &Path) -> Result<(), Error> {
    let file = std::path::absolute(file).map_err(cannot("find", file))?;
    // The path may contain symbolic links and folders that do not exist yet.
    let folder = file.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(&file);
    let folder = folder.canonicalize().map_err(cannot("find", folder))?;
    if folder.starts_with(root.canonicalize().map_err(cannot("find", root))?) {
        return Err(wrong(
            "--identity",
            "it is in the repository, so the identity would be published",
        ));
    }
    Ok(())
}

/// Returns the recipient of the first unpublished identity in `file`, or `None` if the file does not
/// exist.
fn existing(file: &Path) -> Result<Option<AgeRecipient>, Error> {
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read(file).map_err(cannot("read", file))?;
    let identities = Identities::parse(&Secret::new(text))?;
    let mut recipients = identities.recipients().into_iter();
    let found = recipients.find(|recipient| !contract::is_published(recipient));
    let found = found.and_then(|recipient| AgeRecipient::try_from(recipient).ok());
    found.map(Some).ok_or_else(|| Error::InitIdentity { file: file.to_owned() })
}

/// Writes a new identity to `file`, which only the file's owner may read.
fn create_identity(file: &Path) -> Result<AgeRecipient, Error> {
    let (identity, recipient) = secrets::new_identity()?;
    if let Some(folder) = file.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(cannot("create", folder))?;
    }
    let mut to = OpenOptions::new();
    let to = to.write(true).create_new(true).mode(0o600).open(file);
    let write = |mut to: fs::File| {
        writeln!(to, "# public key: {recipient}")?;
        to.write_all(identity.expose())?;
        to.write_all(b"\n")?;
        to.sync_all()
    };
    to.and_then(write).map_err(cannot("write", file))?;
    Ok(recipient)
}

/// Returns the entries of the file of secrets, and the keys whose environment variable is not set.
fn entries(root: Secret) -> (Vec<(&'static str, Secret)>, Vec<String>) {
    let (mut entries, mut missing) = (vec![("root", root)], Vec::new());
    for (key, variable) in VALUES {
        let given = std::env::var(variable).ok().filter(|value| !value.is_empty());
        if given.is_none() {
            missing.push(format!("{key} ({variable})"));
        }
        let value = given.unwrap_or_else(|| PLACEHOLDER.to_owned());
        entries.push((key, Secret::new(value.into_bytes())));
    }
    (entries, missing)
}

/// Removes the published identities, because no secret is encrypted for them any more.
fn remove_published_identities(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = root.join("project");
    let mut removed = Vec::new();
    for entry in fs::read_dir(&folder).map_err(cannot("read", &folder))?.flatten() {
        let path = entry.path();
        let is_text = path.extension().is_some_and(|extension| extension == "txt");
        let Some(text) = is_text.then(|| fs::read(&path).ok()).flatten() else { continue };
        let Ok(identities) = Identities::parse(&Secret::new(text)) else { continue };
        let recipients = identities.recipients();
        if !recipients.is_empty()
            && recipients.iter().all(|recipient| contract::is_published(recipient))
        {
            fs::remove_file(&path).map_err(cannot("remove", &path))?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Reports the changes and the steps that are left to the user.
fn report(
    file: &Path,
    is_new: bool,
    changed: &[(PathBuf, String)],
    removed: &[PathBuf],
    missing: &[String],
) {
    let note = |text: std::fmt::Arguments<'_>| documents::note("init", text);
    if is_new {
        note(format_args!("a new identity is in {}", file.display()));
        note(format_args!(
            "keep a copy of it elsewhere: without the identity the root cannot be decrypted"
        ));
    } else {
        note(format_args!("the identity in {} decrypts the secrets", file.display()));
    }
    note(format_args!("a new root is in {SECRETS}, encrypted for that identity"));
    for (path, _) in changed {
        note(format_args!("changed {}", path.display()));
    }
    for path in removed {
        note(format_args!("removed {}, a published identity", path.display()));
    }
    if !missing.is_empty() {
        note(format_args!("not given: {}", missing.join(", ")));
        note(format_args!("add them with `sops edit {SECRETS}` (https://github.com/getsops/sops)"));
    }
    note(format_args!("next: commit the changes and run `vcs-bootstrap plan project`"));
}

/// Returns the current time in the format of RFC 3339.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    rfc_3339(since)
}

/// Returns the time that is `seconds` after 1970-01-01T00:00:00Z in the format of RFC 3339.
fn rfc_3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The algorithm of https://howardhinnant.github.io/date_algorithms.html#civil_from_days,
    // without its branches for days before 1970.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_formats_times_on_both_sides_of_leap_days() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_867_200, "2026-11-28T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc_3339(seconds), text);
        }
    }
}
