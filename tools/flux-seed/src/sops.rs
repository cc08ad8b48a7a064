//! Checks that Flux can decrypt the manifests before anything is applied. A Secret that Flux cannot
//! decrypt would stop a delivery halfway.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Error;

/// A larger file is skipped, because it is not a manifest.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// Maximum depth of folders.
const DEPTH_MAX: usize = 16;
/// Maximum number of files that are checked.
const FILES_MAX: usize = 10_000;

/// Checks that every file below `folder` that is encrypted to age recipients is encrypted to
/// `recipient`.
pub(crate) fn check(folder: &Path, recipient: &str) -> Result<(), Error> {
    let mut files = Vec::new();
    find(folder, 0, &mut files)?;
    files.sort();
    let unreadable = files.into_iter().filter_map(|file| match is_for_us(&file, recipient) {
        Ok(true) => None,
        Ok(false) => Some(Ok(file.display().to_string())),
        Err(error) => Some(Err(error)),
    });
    let files = unreadable.collect::<Result<Vec<_>, _>>()?;
    if files.is_empty() {
        Ok(())
    } else {
        Err(Error::NotDecryptable { files, recipient: recipient.to_owned() })
    }
}

fn cannot_read(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Unreadable { path, source }
}

fn find(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(cannot_read(folder))? {
        let entry = entry.map_err(cannot_read(folder))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(cannot_read(folder))?);
        let endings = ["yaml", "yml", "json"];
        let is_manifest =
            endings.iter().any(|ending| path.extension().is_some_and(|has| has == *ending));
        // Symbolic links are not followed, because artifact-attest does not follow them either.
        if kind.is_dir() && depth < DEPTH_MAX {
            find(&path, depth + 1, files)?;
        } else if kind.is_file() && is_manifest && files.len() < FILES_MAX {
            files.push(path);
        }
    }
    Ok(())
}

fn is_for_us(file: &Path, recipient: &str) -> Result<bool, Error> {
    let bytes = fs::metadata(file).map_err(cannot_read(file))?.len();
    if bytes > FILE_MAX_BYTES {
        return Ok(true);
    }
    let text = fs::read_to_string(file).map_err(cannot_read(file))?;
    // sops writes valid YAML. Flux reports the error of an invalid file.
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_default();
    Ok(documents.iter().all(|document| match document["sops"]["age"].as_array() {
        Some(keys) => keys.iter().any(|key| key["recipient"] == recipient),
        None => true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_names_a_file_that_is_encrypted_only_to_other_recipients() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("plain.yaml", "kind: ConfigMap\n---\nkind: Secret\n");
        write("a/ours.yaml", "sops: {age: [{recipient: theirs}, {recipient: ours}]}\n");
        write("values.txt", "sops: {age: [{recipient: theirs}]}\n");
        assert!(check(folder.path(), "ours").is_ok());
        write("a/b/theirs.yaml", "kind: Secret\nsops: {age: [{recipient: theirs}]}\n");
        let error = check(folder.path(), "ours").expect_err("not ours");
        assert!(matches!(&error, Error::NotDecryptable { files, .. } if files.len() == 1));
        assert!(error.to_string().contains("theirs.yaml"), "{error}");
    }
}
