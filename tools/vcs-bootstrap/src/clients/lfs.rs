//! Pointers of Git LFS in the local history, and the objects that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ::git::{Storage, Url};
use documents::Reason;

use crate::Error;
use crate::clients::git;
use crate::model::{LfsObject, LfsObjects, Readable, Refusal, RepositorySlug};

/// Largest size of a Git LFS pointer, in bytes.
/// <https://github.com/git-lfs/git-lfs/blob/v3.7.0/docs/spec.md>: "less than 1024 bytes".
const POINTER_BYTES_MAX: &str = "1024";
/// First bytes of a Git LFS pointer, whatever the number of its version.
const POINTER_STARTS: [&str; 3] = [
    "version https://git-lfs.github.com/spec/",
    "version https://hawser.github.com/spec/",
    "version http://git-media.io/v/",
];
/// Versions of pointers. Every client still reads the older names (`lfs/pointer.go` of git-lfs v3.7.1).
const VERSIONS: [&str; 3] = [
    "https://git-lfs.github.com/spec/v1",
    "https://hawser.github.com/spec/v1",
    "http://git-media.io/v/2",
];
/// Digest of an empty object, which git-lfs neither stores nor uploads.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Content of a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// SHA-256 digest of the content in lower-case hex.
    oid: String,
    /// Size of the content in bytes.
    size: u64,
}

/// Returns the objects that the pointers in the commits up to `commit` name, without the history of `from`,
/// or the reason why this history cannot be pushed completely.
pub(crate) fn objects(
    commit: &str,
    from: Option<&str>,
    endpoint: &contract::Forge,
    place: &RepositorySlug,
) -> Result<Readable<LfsObjects>, Error> {
    let here = Path::new(".");
    let range = git::range(commit, from);
    let range: Vec<_> = range.iter().map(String::as_str).collect();
    if let Some(refusal) = git::incomplete(&range)? {
        return Ok(Readable::Denied(refusal));
    }
    let pointers = pointers(here, &range)?;
    // git-lfs itself treats a file that only begins like a pointer as ordinary content.
    let pointers: Vec<_> =
        pointers.into_iter().filter_map(|(path, pointer)| Some((path, pointer?))).collect();
    if pointers.is_empty() {
        return Ok(Readable::Value(LfsObjects::new()));
    }
    let files = named(&pointers);
    if let Some(refusal) = foreign_server(commit, endpoint, place, &files)? {
        return Ok(Readable::Denied(refusal));
    }
    if !::git::has_lfs(here).map_err(|error| git::not_run("lfs version", error))? {
        return Ok(Readable::Denied(Refusal {
            reason: Reason::NotInCommit,
            what: format!(
                "Git LFS keeps the content of {files} outside the history, and git-lfs, which \
                 uploads it, is not installed"
            ),
            help:
                "install git-lfs (Debian: apt-get install git-lfs); or take the files out of LFS: \
                   `git lfs migrate export --everything --include='*'`"
                    .to_owned(),
        }));
    }
    stored(here, pointers, from)
}

/// Finds the objects on this machine. An object that is absent here and that the history of `from` names is
/// left out, because it is the forge's already: `git lfs prune` deletes what was pushed.
fn stored(
    here: &Path,
    pointers: Vec<(String, Pointer)>,
    from: Option<&str>,
) -> Result<Readable<LfsObjects>, Error> {
    let storage = Storage::of(here).map_err(|error| git::not_run("rev-parse", error))?;
    let (mut objects, mut missing) = (LfsObjects::new(), Vec::new());
    for (path, pointer) in pointers {
        let Pointer { oid, size } = &pointer;
        if *size == 0 || oid == EMPTY {
            continue;
        }
        match storage.find(oid, *size) {
            Some(stored) => {
                objects.insert(pointer.oid, LfsObject { path, size: pointer.size, stored });
            }
            None => missing.push((path, pointer)),
        }
    }
    if let Some(from) = from.filter(|_| !missing.is_empty()) {
        let earlier = self::pointers(here, &[from])?.into_iter();
        let earlier: BTreeSet<_> = earlier.filter_map(|(_, pointer)| Some(pointer?.oid)).collect();
        missing.retain(|(_, pointer)| !earlier.contains(&pointer.oid));
    }
    if missing.is_empty() {
        return Ok(Readable::Value(objects));
    }
    Ok(Readable::Denied(Refusal {
        reason: Reason::HistoryIncomplete,
        what: format!(
            "Git LFS keeps the content of {} outside the history, and this clone lacks it or has only \
             a part of it",
            named(&missing)
        ),
        help:
            "run `git lfs fetch --all` in a clone of the repository where the content is; if it is \
               lost, remove the files from the whole history"
                .to_owned(),
    }))
}

/// Returns the refusal of a history whose `.lfsconfig` sends clones to another LFS server than that of the
/// declared repository. An upload to the forge would not reach those clones, and the other server must not get
/// the forge's token.
fn foreign_server(
    commit: &str,
    endpoint: &contract::Forge,
    place: &RepositorySlug,
    files: &str,
) -> Result<Option<Refusal>, Error> {
    let blob = format!("{commit}:.lfsconfig");
    if !git::run(&["cat-file", "-e", &blob])?.success {
        return Ok(None);
    }
    // `lfs.pushurl` is left out, because clones do not read from it (`config/git_fetcher.go` of git-lfs v3.7.1
    // lists the keys that a `.lfsconfig` may set).
    let keys = r"^(lfs\.url|remote\..*\.lfsurl)$";
    let set = git::run(&["config", "--blob", &blob, "--get-regexp", keys])?;
    let settings = set.text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
    let mut foreign = settings.filter(|(_, url)| !is_server_of(url, endpoint, place));
    let Some((key, _)) = foreign.next() else { return Ok(None) };
    Ok(Some(Refusal {
        reason: Reason::ForeignOrigin,
        what: format!(
            "`.lfsconfig` sets {key} to another server than that of {place}, where clones would look \
             for the content of {files}"
        ),
        help: "remove the setting in a commit, so that the forge has the content; or declare \
               `history: {push: never}`, apply, and push with git-lfs yourself, because the forge's \
               token is sent to no other server"
            .to_owned(),
    }))
}

/// Whether `url` is the LFS server of the repository `place` at the forge.
fn is_server_of(url: &str, endpoint: &contract::Forge, place: &RepositorySlug) -> bool {
    let Ok(url) = Url::try_from(url.to_owned()) else { return false };
    let Some(path) = url.path().strip_suffix("/info/lfs") else { return false };
    let path = path.strip_suffix(".git").unwrap_or(path).to_ascii_lowercase();
    let base = match endpoint {
        contract::Forge::Github { .. } => "",
        contract::Forge::Gitea { url, .. } => url.path(),
    };
    let declared = format!("{base}/{place}").to_ascii_lowercase();
    endpoint.owns(&url).is_ok() && path == declared.trim_start_matches('/')
}

/// Returns the first files, and the number of the others.
fn named(pointers: &[(String, Pointer)]) -> String {
    let files: BTreeSet<_> = pointers.iter().map(|(path, _)| path.as_str()).collect();
    let more = files.len().saturating_sub(git::FILES_NAMED_MAX);
    let first: Vec<_> = files.into_iter().take(git::FILES_NAMED_MAX).collect();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    first.join(", ") + &more
}

/// Returns the files that begin like a Git LFS pointer in any commit of `range`, in the repository in `folder`,
/// each with its pointer if that is valid. A file has an entry for each of its contents.
pub(crate) fn pointers(
    folder: &Path,
    range: &[&str],
) -> Result<Vec<(String, Option<Pointer>)>, Error> {
    let small = format!("--filter=blob:limit={POINTER_BYTES_MAX}");
    let blobs = [
        "rev-list",
        "--objects",
        "--filter=object:type=blob",
        &small,
        "--filter-provided-objects",
        "--missing=allow-any",
    ];
    let listed = ::git::run(&[&blobs, range].concat(), folder, None);
    let listed = listed.map_err(|error| git::not_run("rev-list", error))?;
    if !listed.success {
        return Err(git::failed("rev-list", &listed));
    }
    let paths: BTreeMap<_, _> =
        listed.text.lines().filter_map(|line| line.split_once(' ')).collect();
    let input: String = paths.keys().flat_map(|blob| [*blob, "\n"]).collect();
    let contents = ::git::run_with_input(&["cat-file", "--batch"], folder, input.as_bytes());
    let contents = contents.map_err(|error| git::not_run("cat-file", error))?;
    if !contents.success {
        return Err(git::failed("cat-file", &contents));
    }
    // Each object is a line `<id> <type> <size>`, its content, and a line break.
    let (mut rest, mut found) = (contents.text.as_str(), Vec::new());
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let words: Vec<_> = line.split(' ').collect();
        let &[blob, "blob", size] = &*words else { continue };
        let (Some(path), Ok(size)) = (paths.get(blob), size.parse::<usize>()) else { continue };
        // The end of the output has no line break. Bytes that are not UTF-8 were replaced, so that the size
        // of a binary file is another one, and the next object is found by its line.
        let content = after.get(..size).unwrap_or(after);
        if POINTER_STARTS.iter().any(|start| content.trim_start().starts_with(start)) {
            found.push(((*path).to_owned(), Pointer::read(content)));
        }
        if !content.contains(char::REPLACEMENT_CHARACTER) {
            rest = &after[content.len()..];
        }
    }
    Ok(found)
}

impl Pointer {
    /// Reads a pointer as git-lfs does (`lfs/pointer.go` of v3.7.1): surrounding white space, empty lines and
    /// carriage returns do not matter, and the order of the lines does.
    fn read(content: &str) -> Option<Self> {
        let lines = content.trim().lines().filter(|line| !line.is_empty());
        let lines: Vec<_> = lines.map(|line| line.split_once(' ')).collect::<Option<_>>()?;
        let is_extension = |key: &str| {
            let rest = key
                .strip_prefix("ext-")
                .and_then(|rest| rest.strip_prefix(|c: char| c.is_ascii_digit()));
            rest.is_some_and(|name| name.len() > 1 && name.starts_with('-'))
        };
        let (extensions, lines): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|(key, _)| is_extension(key));
        let [("version", version), ("oid", oid), ("size", size)] = *lines else { return None };
        let is_known = VERSIONS.contains(&version);
        let is_extended = extensions.iter().all(|(_, oid)| digest(oid).is_some());
        let size = size.parse().ok().filter(|_| is_known && is_extended)?;
        Some(Self { oid: digest(oid)?, size })
    }
}

/// Returns the digest of an object ID, for example `sha256:4d7a…`.
fn digest(oid: &str) -> Option<String> {
    let digest = oid.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digest.len() == 64 && digest.bytes().all(is_hex)).then(|| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use secrets::Reference;
    use serde_json::{from_value, json};

    use super::*;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn a_pointer_is_read_as_git_lfs_reads_it() {
        let version = "version https://git-lfs.github.com/spec/v1";
        let oid = format!("oid sha256:{OID}");
        let right = Some(Pointer { oid: OID.to_owned(), size: 12345 });
        for text in [
            format!("{version}\n{oid}\nsize 12345\n"),
            format!("{version}\n{oid}\nsize 12345"),
            format!("\n  {version}\r\n{oid}\r\n\r\nsize 12345\r\n\n"),
            format!(
                "{version}\next-0-case sha256:{OID}\next-1-more sha256:{OID}\n{oid}\nsize 12345\n"
            ),
            format!("version https://hawser.github.com/spec/v1\n{oid}\nsize 12345\n"),
            format!("version http://git-media.io/v/2\n{oid}\nsize 12345\n"),
        ] {
            assert_eq!(Pointer::read(&text), right, "{text}");
        }
        for text in [
            format!("{version}\n"),
            format!("{version}\n{oid}\n"),
            format!("{version}\nsize 12345\n{oid}\n"),
            format!("{version}\n{oid}\nsize -1\n"),
            format!("{version}\n{oid}\nsize 12345\nmore lines\n"),
            format!("{version}\n{}\nsize 12345\n", oid.to_uppercase()),
            format!("{version}\noid sha256:../../x\nsize 12345\n"),
            format!("{version}\noid sha1:{OID}\nsize 12345\n"),
            format!("{version}\next-0-case x\n{oid}\nsize 12345\n"),
            format!("version https://git-lfs.github.com/spec/v9\n{oid}\nsize 12345\n"),
        ] {
            assert_eq!(Pointer::read(&text), None, "{text}");
        }
    }

    #[test]
    fn only_the_server_of_the_declared_repository_is_the_forges() {
        let token: Reference = from_value(json!({"env": "X"})).expect("a reference");
        let url = |text: &str| Url::try_from(text.to_owned()).expect("an address");
        let github = contract::Forge::Github {
            url: url("https://api.github.com"),
            token: token.clone(),
            app: None,
        };
        let gitea = contract::Forge::Gitea { url: url("https://git.acme.org/gitea"), token };
        let place = RepositorySlug { owner: "Owner".to_owned(), name: "models".to_owned() };
        for (forge, url, is) in [
            (&github, "https://github.com/owner/models.git/info/lfs", true),
            (&github, "https://GitHub.com/Owner/Models/info/lfs", true),
            (&gitea, "https://git.acme.org/gitea/Owner/models.git/info/lfs", true),
            (&github, "https://github.com/upstream/models.git/info/lfs", false),
            (&github, "https://github.com/owner/models.git", false),
            (&github, "https://github.com.evil.org/owner/models.git/info/lfs", false),
            (&github, "https://user:word@github.com/owner/models.git/info/lfs", false),
            (&github, "https://lfs.example.org/owner/models.git/info/lfs", false),
            (&gitea, "https://git.acme.org/Owner/models.git/info/lfs", false),
            (&gitea, "file:///srv/lfs", false),
            (&gitea, "", false),
        ] {
            assert_eq!(is_server_of(url, forge, &place), is, "{url}");
        }
    }
}
