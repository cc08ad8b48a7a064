//! The inputs that a flake's lock pins.

use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;

/// One locked input of a flake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Input {
    /// URL from which others fetch the input; for a folder of this machine, its name in the lock.
    pub(crate) uri: String,
    pub(crate) pin: Pin,
}

/// Content that a lock pins an input to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pin {
    /// SHA-256 of the input's NAR, in hexadecimal.
    Nar(String),
    /// Git commit, where Nix has not computed a NAR (lazy trees).
    Commit(String),
}

/// Converts a hash from SRI notation to hexadecimal.
pub(crate) fn hex(sri: &str) -> Option<String> {
    let bytes = BASE64.decode(sri.strip_prefix("sha256-")?.as_bytes()).ok()?;
    (bytes.len() == 32).then(|| HEXLOWER.encode(&bytes))
}

/// Converts a NAR's hash from hexadecimal to SRI notation.
pub(crate) fn sri(hex: &str) -> Option<String> {
    let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
    Some(format!("sha256-{}", BASE64.encode(&bytes)))
}

/// Returns every locked flake. Returns `None` if `metadata` has no lock, and the name of an input
/// without a hash as an error.
pub(crate) fn inputs_of(metadata: &Value) -> Option<Result<Vec<Input>, String>> {
    let locks = &metadata["locks"];
    let root = locks["root"].as_str()?;
    let mut inputs = Vec::new();
    for (name, node) in locks["nodes"].as_object()?.iter().filter(|(name, _)| *name != root) {
        let locked = &node["locked"];
        let text = |field: &str| locked[field].as_str();
        let kind = text("type")?;
        let is_relative = text("path").is_some_and(|path| !path.starts_with('/'));
        if kind == "path" && is_relative && text("narHash").is_none() {
            continue; // a folder of the same commit has no hash (Nix 2.26 and newer)
        }
        let uri = match kind {
            forge @ ("github" | "gitlab" | "sourcehut") => {
                format!("{forge}:{}/{}/{}", text("owner")?, text("repo")?, text("rev")?)
            }
            "git" => format!("git+{}?rev={}", text("url")?, text("rev")?),
            "tarball" | "file" => text("url")?.to_owned(),
            _ => format!("nix-flake-input:{name}"),
        };
        let pin = match (text("narHash"), text("rev")) {
            (Some(sri), _) => Pin::Nar(hex(sri)?),
            (None, Some(rev)) => Pin::Commit(rev.to_owned()),
            (None, None) => return Some(Err(name.clone())),
        };
        inputs.push(Input { uri, pin });
    }
    inputs.sort();
    inputs.dedup();
    Some(Ok(inputs))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SRI: &str = "sha256-r2f1oUwixlgq9zOdYLqJLfS/lWBT60/IITjhTKI59JU=";

    #[test]
    fn a_hash_survives_the_conversion_to_hex_and_back() {
        assert_eq!(hex(SRI).as_deref().and_then(sri).as_deref(), Some(SRI));
    }

    #[test]
    fn an_input_from_a_local_folder_does_not_reveal_its_path() {
        let metadata = json!({"locks": {"root": "root", "nodes": {
            "root": {"inputs": {"nixpkgs": "nixpkgs", "lab": "lab"}},
            "nixpkgs": {"locked": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": "abc", "narHash": SRI}},
            "lab": {"locked": {"type": "path", "path": "/home/user/lab", "narHash": SRI}},
        }}});
        let inputs = inputs_of(&metadata).expect("a lock").expect("pinned");
        let uris: Vec<_> = inputs.into_iter().map(|input| input.uri).collect();
        assert_eq!(uris, ["github:NixOS/nixpkgs/abc", "nix-flake-input:lab"]);
    }

    #[test]
    fn an_input_without_a_hash_must_be_in_the_commit_or_have_a_commit() {
        let read = |locked: Value| {
            inputs_of(
                &json!({"locks": {"root": "root", "nodes": {"root": {}, "lib": {"locked": locked}}}}),
            )
        };
        assert_eq!(read(json!({"type": "path", "path": "../lib"})), Some(Ok(vec![])));
        let lazy = read(json!({"type": "git", "url": "https://example.org/a", "rev": "f00"}));
        assert!(
            lazy.is_some_and(|all| all.is_ok_and(|all| all[0].pin == Pin::Commit("f00".into())))
        );
        assert_eq!(read(json!({"type": "path", "path": "/lib"})), Some(Err("lib".into())));
    }
}
