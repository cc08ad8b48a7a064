//! Nix: what would be built, what was built, and whether it comes out the same again.

use std::collections::BTreeMap;
use std::fs;

use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;

use crate::Error;
use crate::oci::Digest;
use crate::source::Source;
use crate::spec::Build;
use crate::tool::{self, Ended};

/// What would be built: known without building it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Derivation {
    /// Its path in the store.
    pub(crate) path: String,
    /// Of the file at that path.
    pub(crate) digest: Digest,
    /// The path of what it builds.
    pub(crate) out: String,
    /// Every flake that went into it.
    pub(crate) inputs: Vec<Input>,
}

/// A flake that goes into another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Input {
    /// Where others fetch it from; for a folder of this machine its name in the lock.
    pub(crate) uri: String,
    /// The SHA-256 of its NAR, in hex.
    pub(crate) nar_sha256: String,
}

/// A path in the store, and the SHA-256 of its NAR in hex.
pub(crate) type Closure = BTreeMap<String, String>;

/// Nix, for one document.
#[derive(Debug)]
pub(crate) struct Nix<'a> {
    pub(crate) document: &'a str,
    /// Flake inputs to be taken from elsewhere.
    pub(crate) inputs: &'a BTreeMap<String, String>,
}

impl Nix<'_> {
    /// What `build` would build from `source`. Writes the `.drv` into the store, and nothing else.
    pub(crate) fn evaluate(&self, source: &Source, build: &Build) -> Result<Derivation, Error> {
        let flake = flake(source);
        let (system, attribute) = (build.system.nix(), build.attribute.as_str());
        let installable = format!("{flake}#packages.{system}.\"{attribute}\"");
        let paths = self.nix(&[
            "eval",
            "--json",
            "--apply",
            "it: [ it.drvPath it.outPath ]",
            &installable,
        ])?;
        let (path, out): (String, String) =
            serde_json::from_slice(&paths.stdout).map_err(|_| garbled("eval"))?;
        if ![&path, &out].iter().all(|it| it.starts_with('/') && !it.contains("..")) {
            return Err(garbled("eval"));
        }
        let derivation =
            fs::read(&path).map_err(|source| Error::Unreadable { what: path.clone(), source })?;
        let metadata = self.nix(&["flake", "metadata", "--json", &flake])?;
        let inputs =
            serde_json::from_slice::<Value>(&metadata.stdout).ok().as_ref().and_then(inputs);
        let inputs = inputs.ok_or_else(|| garbled("flake metadata"))?;
        Ok(Derivation { path, digest: Digest::of(&derivation), out, inputs })
    }

    fn nix(&self, arguments: &[&str]) -> Result<Ended, Error> {
        // Without an override Nix refuses a lock that does not fit: it cannot write into a commit.
        let mut all = vec!["--extra-experimental-features", "nix-command flakes"];
        all.extend(arguments);
        for (name, from) in self.inputs {
            all.extend(["--override-input", name, from]);
        }
        let ended = tool::run(self.document, "nix", all)?;
        if ended.code == Some(0) {
            return Ok(ended);
        }
        let unreachable = ["unable to download", "Could not resolve", "timed out", "try again"];
        let temporary = unreachable.iter().any(|it| ended.said.contains(it));
        Err(Error::Evaluation { said: ended.said, temporary })
    }

    /// Builds `derivation`, or takes it from the store or a substituter.
    pub(crate) fn build(&self, derivation: &Derivation, build: &Build) -> Result<(), Error> {
        self.realise(derivation, build, &[])
    }

    /// Builds what is already in the store once more, and compares.
    pub(crate) fn rebuild(&self, derivation: &Derivation, build: &Build) -> Result<(), Error> {
        self.realise(derivation, build, &["--check"])
    }

    fn realise(&self, derivation: &Derivation, build: &Build, more: &[&str]) -> Result<(), Error> {
        let seconds = build.timeout_seconds.to_string();
        let arguments = [&["--realise", "--timeout", &seconds], more, &[&derivation.path]].concat();
        let ended = tool::run_tied(self.document, "nix-store", arguments)?;
        let (path, said) = (derivation.path.clone(), ended.said);
        // Measured with Nix 2.8: 100 a builder failed, 101 it took too long, 102 a download is not
        // what was declared, 104 a second build differs.
        match ended.code {
            Some(0) => Ok(()),
            Some(104) => Err(Error::NotReproducible { path, said }),
            Some(101) => Err(Error::BuildTimeout { path, said }),
            Some(100 | 102) => Err(Error::Build { path, said }),
            _ => Err(Error::Nix { path, said }),
        }
    }

    /// What was built, with all that it needs when it runs.
    pub(crate) fn closure(&self, derivation: &Derivation) -> Result<Closure, Error> {
        let features = ["--extra-experimental-features", "nix-command"];
        let arguments = [&features[..], &["path-info", "--json", "--recursive", &derivation.out]];
        let ended = tool::run(self.document, "nix", arguments.concat())?;
        if ended.code != Some(0) {
            return Err(Error::Nix { path: derivation.path.clone(), said: ended.said });
        }
        let infos: Value =
            serde_json::from_slice(&ended.stdout).map_err(|_| garbled("path-info"))?;
        closure(&infos).ok_or_else(|| garbled("path-info"))
    }
}

fn garbled(command: &'static str) -> Error {
    Error::NixGarbled { command }
}

/// The flake in that very commit: what lies about in the folder cannot get into it.
fn flake(source: &Source) -> String {
    let (root, rev) = (encoded(&source.root.display().to_string()), &source.rev);
    match encoded(&source.folder) {
        folder if folder.is_empty() => format!("git+file://{root}?rev={rev}"),
        folder => format!("git+file://{root}?dir={folder}&rev={rev}"),
    }
}

fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |text, byte| match byte {
        it if it.is_ascii_alphanumeric() || b"/._-~".contains(&it) => {
            text + &char::from(it).to_string()
        }
        it => text + &format!("%{it:02X}"),
    })
}

/// Measured: an array in Nix 2.8; newer ones print an object by path.
fn closure(infos: &Value) -> Option<Closure> {
    let pairs: Vec<(&str, &Value)> = match infos {
        Value::Array(infos) => {
            infos.iter().map(|it| Some((it["path"].as_str()?, it))).collect::<Option<_>>()?
        }
        Value::Object(infos) => infos.iter().map(|(path, it)| (path.as_str(), it)).collect(),
        _ => return None,
    };
    let pairs = pairs.into_iter();
    pairs.map(|(path, it)| Some((path.to_owned(), hex(it["narHash"].as_str()?)?))).collect()
}

/// The hex of a hash in SRI form.
fn hex(sri: &str) -> Option<String> {
    let bytes = BASE64.decode(sri.strip_prefix("sha256-")?.as_bytes()).ok()?;
    (bytes.len() == 32).then(|| HEXLOWER.encode(&bytes))
}

/// A NAR's hash as Nix shows it, from hex.
pub(crate) fn sri(hex: &str) -> Option<String> {
    let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
    Some(format!("sha256-{}", BASE64.encode(&bytes)))
}

fn inputs(metadata: &Value) -> Option<Vec<Input>> {
    let locks = &metadata["locks"];
    let root = locks["root"].as_str()?;
    let nodes = locks["nodes"].as_object()?.iter().filter(|(name, _)| *name != root);
    let mut inputs = nodes
        .map(|(name, node)| {
            let locked = &node["locked"];
            let text = |field: &str| locked[field].as_str();
            let uri = match text("type")? {
                it @ ("github" | "gitlab" | "sourcehut") => {
                    format!("{it}:{}/{}/{}", text("owner")?, text("repo")?, text("rev")?)
                }
                "git" => format!("git+{}?rev={}", text("url")?, text("rev")?),
                "tarball" | "file" => text("url")?.to_owned(),
                _ => format!("nix-flake-input:{name}"),
            };
            Some(Input { uri, nar_sha256: hex(text("narHash")?)? })
        })
        .collect::<Option<Vec<_>>>()?;
    inputs.sort();
    inputs.dedup();
    Some(inputs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SRI: &str = "sha256-r2f1oUwixlgq9zOdYLqJLfS/lWBT60/IITjhTKI59JU=";

    #[test]
    fn path_info_is_read_as_old_and_as_new_nix_prints_it() {
        let old = json!([{"path": "/nix/store/a", "narHash": SRI, "registrationTime": 1}]);
        let new = json!({"/nix/store/a": {"narHash": SRI}});
        assert_eq!(closure(&old), closure(&new));
        assert_eq!(closure(&json!([{"path": "/nix/store/a"}])), None, "unknown is not absent");
    }

    #[test]
    fn a_hash_is_the_same_in_hex_and_as_nix_shows_it() {
        assert_eq!(hex(SRI).as_deref().and_then(sri).as_deref(), Some(SRI));
    }

    #[test]
    fn an_input_from_a_folder_of_this_machine_does_not_tell_which() {
        let metadata = json!({"locks": {"root": "root", "nodes": {
            "root": {"inputs": {"nixpkgs": "nixpkgs", "lab": "lab"}},
            "nixpkgs": {"locked": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": "abc", "narHash": SRI}},
            "lab": {"locked": {"type": "path", "path": "/home/somebody/lab", "narHash": SRI}},
        }}});
        let uris: Vec<_> = inputs(&metadata).into_iter().flatten().map(|it| it.uri).collect();
        assert_eq!(uris, ["github:NixOS/nixpkgs/abc", "nix-flake-input:lab"]);
    }

    #[test]
    fn a_folder_with_strange_letters_is_one_folder() {
        let source = Source { root: "/a b&c".into(), folder: "ü#1".into(), rev: "f00".into() };
        assert_eq!(flake(&source), "git+file:///a%20b%26c?dir=%C3%BC%231&rev=f00");
    }
}
