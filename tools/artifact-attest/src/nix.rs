//! Runs Nix: evaluates a flake, builds it, and checks a second build.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use ::remote::percent_encode_except;
use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;

use crate::Error;
use crate::git::Borrowed;
use crate::layers::References;
use crate::oci::Digest;
use crate::source::Source;
use crate::spec::Build;
use crate::tool::{self, Ended};

/// Derivation of a build, known before building.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Derivation {
    /// Store path of the `.drv` file.
    pub(crate) path: String,
    /// Digest of the `.drv` file.
    pub(crate) digest: Digest,
    /// Store path of the build result.
    pub(crate) out: String,
    /// Version of the package; empty if the package has none.
    pub(crate) version: String,
    /// Locked inputs of the flake, direct and indirect.
    pub(crate) inputs: Vec<Input>,
}

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

/// Nix function that tells what a plan needs to know of a package.
const TOLD: &str = "package: [ package.drvPath package.outPath (package.version or \"\") ]";

/// Store paths, with the SHA-256 of their NARs in hexadecimal.
pub(crate) type Closure = BTreeMap<String, String>;

/// Facts that only a build reveals. A signed provenance records them, so that later runs need no
/// build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BuildResult {
    /// SHA-256 of the build result's NAR, in hexadecimal.
    pub(crate) nar_sha256: String,
    /// Whether a second build was bit-identical.
    pub(crate) rebuilt: bool,
    /// Runtime dependencies of the build result, including the result itself.
    pub(crate) closure: Closure,
    /// Store paths that each path of the closure refers to.
    pub(crate) references: References,
}

/// Nix commands for one document.
#[derive(Debug)]
pub(crate) struct Nix<'a> {
    pub(crate) document: &'a str,
    /// Flake inputs that this machine overrides, by name.
    pub(crate) inputs: &'a BTreeMap<String, String>,
}

/// A commit in a temporary repository that Nix may write to, unlike the user's.
struct Flake<'a> {
    borrowed: &'a Borrowed,
    variables: &'a [(String, String)],
    folder: &'a str,
    rev: &'a str,
}

impl Nix<'_> {
    /// Evaluates `build`, and returns the commit to build from with the derivation.
    ///
    /// The commit is the last one that touched the folder, unless the checked-out commit gives
    /// another derivation. The latter happens when a flake uses code outside of its folder. Only
    /// the `.drv` files are written to the store.
    pub(crate) fn evaluate(
        &self,
        source: &Source,
        build: &Build,
    ) -> Result<(Source, Derivation), Error> {
        let elsewhere = source.git.elsewhere(&source.head, &source.folder)?;
        if !elsewhere.is_empty() {
            return Err(Error::Elsewhere { what: elsewhere });
        }
        let borrowed = source.git.borrowed(&source.head)?;
        let variables = borrowed.variables()?;
        let folder = source.folder.as_str();
        let flake = |rev| Flake { borrowed: &borrowed, variables: &variables, folder, rev };
        let head = flake(&source.head);
        self.require_lock(&head)?;
        let mut chosen = (source.at(&source.head), self.derivation(&head, build)?);
        if source.rev != source.head {
            // An older commit that fails to evaluate cannot be the source of this build.
            let touched = flake(&source.rev);
            match self.derivation(&touched, build) {
                Ok(same) if same == chosen.1 => chosen.0 = source.clone(),
                _ => documents::note(
                    self.document,
                    format_args!(
                        "builds {}, not {}: newer commits outside of the flake's folder change the derivation",
                        source.head, source.rev
                    ),
                ),
            }
        }
        let (source, [path, out, version]) = chosen;
        let derivation =
            fs::read(&path).map_err(|source| Error::Unreadable { what: path.clone(), source })?;
        let metadata = self.metadata(&flake(&source.rev), &self.overrides())?;
        let inputs = serde_json::from_slice::<Value>(&metadata.stdout)
            .map_err(|_| garbled("flake metadata"))?;
        let inputs =
            inputs_of(&inputs).ok_or_else(|| garbled("flake metadata"))?.map_err(|input| {
                Error::Unlocked { said: format!("the lock has no hash of {input}") }
            })?;
        Ok((source, Derivation { path, digest: Digest::of(&derivation), out, version, inputs }))
    }

    /// Returns the store paths of the `.drv` file and of the build result, and the package's version.
    fn derivation(&self, flake: &Flake<'_>, build: &Build) -> Result<[String; 3], Error> {
        let (system, attribute) = (build.system.nix(), build.attribute.as_str());
        let installable = format!("{}#packages.{system}.\"{attribute}\"", flake.url());
        let eval = ["eval", "--json", "--apply", TOLD, &installable];
        let overrides = self.overrides();
        let all = [&eval[..], &overrides.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let paths = self.nix(flake, &all)?;
        let told: [String; 3] =
            serde_json::from_slice(&paths.stdout).map_err(|_| garbled("eval"))?;
        let is_path = |path: &String| path.starts_with('/') && !path.contains("..");
        if told[..2].iter().all(is_path) { Ok(told) } else { Err(garbled("eval")) }
    }

    /// Fails if the commit's lock is missing or does not match flake.nix. Overrides of this machine
    /// are left out because they would hide such an error.
    ///
    /// Nix 2.8 rejects such a flake by itself. Nix 2.34 resolves the inputs again, and would build
    /// something that no commit pins. Measured with 2.8: checking a matching lock needs no network.
    fn require_lock(&self, flake: &Flake<'_>) -> Result<(), Error> {
        let checked = self.metadata(flake, &["--no-update-lock-file".to_owned()]);
        let Err(Error::Evaluation { said, temporary }) = checked else {
            return checked.map(|_| ());
        };
        let missing = self.missing_in_lock(flake)?;
        if !missing.is_empty() {
            let said = format!("flake.lock lacks {}\n{said}", missing.join(", "));
            return Err(Error::Unlocked { said });
        }
        // Nix starts a download if the lock and flake.nix name an input in different forms.
        if temporary || said.contains("lock file") {
            return Err(Error::Unlocked { said });
        }
        Err(Error::Evaluation { said, temporary })
    }

    /// Returns the inputs that flake.nix names and the lock lacks.
    fn missing_in_lock(&self, flake: &Flake<'_>) -> Result<Vec<String>, Error> {
        let Flake { borrowed, folder, rev, .. } = flake;
        let entries = borrowed.git.entries(rev, folder)?;
        let read = |name: &str| {
            let Some(entry) = entries.iter().find(|entry| entry.path == name) else {
                return Ok(Vec::new());
            };
            let object = entry.object.as_str();
            Ok::<_, Error>(borrowed.git.blobs(&[object])?.remove(object).unwrap_or_default())
        };
        let lock: Value = serde_json::from_slice(&read("flake.lock")?).unwrap_or_default();
        let root = lock["root"].as_str().unwrap_or_default();
        let locked = &lock["nodes"][root]["inputs"];
        let file = borrowed.path().join(".git/flake.nix");
        fs::write(&file, read("flake.nix")?)
            .map_err(|source| Error::Unreadable { what: "flake.nix".to_owned(), source })?;
        let expression = format!(
            "let f = import {}; in builtins.attrNames (removeAttrs (builtins.functionArgs f.outputs // f.inputs or {{ }}) [ \"self\" ])",
            file.display()
        );
        let arguments = ["--eval", "--strict", "--json", "-E", &expression];
        let named = tool::run(self.document, "nix-instantiate", arguments)?;
        if named.code != Some(0) {
            return Err(Error::Evaluation { said: named.said, temporary: false });
        }
        let named: Vec<String> =
            serde_json::from_slice(&named.stdout).map_err(|_| garbled("eval"))?;
        Ok(named.into_iter().filter(|name| locked[name].is_null()).collect())
    }

    fn metadata(&self, flake: &Flake<'_>, more: &[String]) -> Result<Ended, Error> {
        let url = flake.url();
        let metadata = ["flake", "metadata", "--json", &url];
        let more: Vec<_> = more.iter().map(String::as_str).collect();
        self.nix(flake, &[&metadata[..], &more].concat())
    }

    /// Returns the arguments for this machine's overrides. Without overrides, the lock is enforced.
    /// An override changes the lock in memory, so enforcing would fail.
    fn overrides(&self) -> Vec<String> {
        if self.inputs.is_empty() {
            return vec!["--no-update-lock-file".to_owned()];
        }
        let arguments = self
            .inputs
            .iter()
            .flat_map(|(name, from)| ["--override-input".to_owned(), name.clone(), from.clone()]);
        arguments.collect()
    }

    fn nix(&self, flake: &Flake<'_>, arguments: &[&str]) -> Result<Ended, Error> {
        let mut all = vec!["--extra-experimental-features", "nix-command flakes"];
        all.extend(arguments);
        all.push("--no-write-lock-file");
        let variables = flake.variables.iter();
        let variables: Vec<_> =
            variables.map(|(name, value)| (name.as_str(), OsStr::new(value))).collect();
        let ended = tool::run_with(self.document, "nix", all, &variables, b"")?;
        if ended.code == Some(0) {
            return Ok(ended);
        }
        let temporary = is_network(&ended.said);
        Err(Error::Evaluation { said: ended.said, temporary })
    }

    /// Builds `derivation`, or takes the result from the store or a substituter.
    pub(crate) fn build(&self, derivation: &Derivation, build: &Build) -> Result<(), Error> {
        self.realise(derivation, build, &[])
    }

    /// Builds a result in the store again, and compares both.
    pub(crate) fn rebuild(&self, derivation: &Derivation, build: &Build) -> Result<(), Error> {
        self.realise(derivation, build, &["--check"])
    }

    fn realise(&self, derivation: &Derivation, build: &Build, more: &[&str]) -> Result<(), Error> {
        let seconds = build.timeout_seconds.to_string();
        let arguments = [&["--realise", "--timeout", &seconds], more, &[&derivation.path]].concat();
        let ended = tool::run_tied(self.document, "nix-store", arguments)?;
        let (path, said) = (derivation.path.clone(), ended.said);
        let Some(code) = ended.code else { return Err(Error::Nix { path, said, killed: true }) };
        Err(match Failure::of(code) {
            None => return Ok(()),
            Some(Failure::Differs) => Error::NotReproducible { path, said },
            Some(Failure::TimedOut) => Error::BuildTimeout { path, said },
            Some(Failure::Build) => Error::Build { path, said },
            Some(Failure::Other) => Error::Nix { path, said, killed: false },
        })
    }

    /// Returns the build result with its runtime dependencies, and what each of them refers to.
    pub(crate) fn closure(&self, derivation: &Derivation) -> Result<(Closure, References), Error> {
        let path_info = |more: &[&str]| {
            let features = ["--extra-experimental-features", "nix-command", "path-info", "--json"];
            let what = ["--recursive", derivation.out.as_str()];
            tool::run(self.document, "nix", [&features[..], more, &what].concat())
        };
        // Nix 2.33 and newer warn without the flag that "it will become an error"; older ones, and Lix,
        // do not know the flag (Nix, `src/nix/path-info.cc`).
        let mut ended = path_info(&["--json-format", "1"])?;
        if ended.code != Some(0) && ended.said.contains("--json-format") {
            ended = path_info(&[])?;
        }
        if ended.code != Some(0) {
            let (path, killed) = (derivation.path.clone(), ended.code.is_none());
            return Err(Error::Nix { path, said: ended.said, killed });
        }
        let infos: Value =
            serde_json::from_slice(&ended.stdout).map_err(|_| garbled("path-info"))?;
        closure(&infos).ok_or_else(|| garbled("path-info"))
    }
}

fn garbled(command: &'static str) -> Error {
    Error::NixGarbled { command }
}

impl Flake<'_> {
    fn url(&self) -> String {
        url(self.borrowed.path(), self.folder, self.rev)
    }
}

/// Returns the flake's URL at its commit, so that uncommitted files stay out.
fn url(root: &Path, folder: &str, rev: &str) -> String {
    let root = percent_encode_except(&root.display().to_string(), "/");
    match percent_encode_except(folder, "/") {
        folder if folder.is_empty() => format!("git+file://{root}?rev={rev}"),
        folder => format!("git+file://{root}?dir={folder}&rev={rev}"),
    }
}

/// Reason why `nix-store --realise` failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The second build differs.
    Differs,
    TimedOut,
    /// A builder failed, or a download has the wrong hash.
    Build,
    /// Nix failed before building: unsupported system, no sandbox, or the daemon denies access.
    Other,
}

impl Failure {
    /// Classifies an exit status: 96 plus one bit for each kind of failure, of which several may
    /// occur (Nix, `Worker::failingExitStatus`; measured with 2.8 and 2.34: 100, 101, 102, 104).
    fn of(code: i32) -> Option<Self> {
        match code {
            0 => None,
            96..=111 if code & 8 != 0 => Some(Self::Differs),
            96..=111 if code & 1 != 0 => Some(Self::TimedOut),
            96..=111 => Some(Self::Build),
            _ => Some(Self::Other),
        }
    }
}

/// Whether a download of Nix failed. Reads the beginning of Nix's own errors because all failed
/// evaluations have the same exit status, and a flake may print anything after it.
fn is_network(said: &str) -> bool {
    said.lines().map(str::trim_start).filter_map(|line| line.strip_prefix("error: ")).any(|error| {
        let download = error.strip_prefix("unable to download '");
        download.is_some_and(|error| {
            !error.contains("HTTP error 4") || error.contains("HTTP error 429")
        })
    })
}

/// Reads `nix path-info --json`. Measured: Nix 2.8 prints an array, newer versions an object by
/// path.
fn closure(infos: &Value) -> Option<(Closure, References)> {
    let pairs: Vec<(&str, &Value)> = match infos {
        Value::Array(infos) => {
            infos.iter().map(|info| Some((info["path"].as_str()?, info))).collect::<Option<_>>()?
        }
        Value::Object(infos) => infos.iter().map(|(path, info)| (path.as_str(), info)).collect(),
        _ => return None,
    };
    let (mut closure, mut references) = (Closure::new(), References::new());
    for (path, info) in pairs {
        closure.insert(path.to_owned(), hex(info["narHash"].as_str()?)?);
        let needed = info["references"].as_array()?.iter().map(|path| Some(path.as_str()?.into()));
        references.insert(path.to_owned(), needed.collect::<Option<_>>()?);
    }
    Some((closure, references))
}

/// Converts a hash from SRI notation to hexadecimal.
fn hex(sri: &str) -> Option<String> {
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
fn inputs_of(metadata: &Value) -> Option<Result<Vec<Input>, String>> {
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
    fn path_info_of_old_and_new_nix_is_read() {
        let needed = json!(["/nix/store/a", "/nix/store/b"]);
        let old = json!([{"path": "/nix/store/a", "narHash": SRI, "references": needed}]);
        let new = json!({"/nix/store/a": {"narHash": SRI, "references": needed}});
        assert_eq!(closure(&old), closure(&new));
        assert_eq!(closure(&new).expect("right").1["/nix/store/a"].len(), 2);
        assert_eq!(closure(&json!([{"path": "/nix/store/a"}])), None, "unknown is not absent");
    }

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
    fn special_characters_in_a_folder_are_encoded() {
        let url = url(Path::new("/a b&c"), "ü#1", "f00");
        assert_eq!(url, "git+file:///a%20b%26c?dir=%C3%BC%231&rev=f00");
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

    #[test]
    fn the_exit_status_of_nix_is_classified() {
        for (code, failure) in [
            (0, None),
            (1, Some(Failure::Other)),
            (100, Some(Failure::Build)),
            (101, Some(Failure::TimedOut)),
            (102, Some(Failure::Build)),
            (103, Some(Failure::TimedOut)),
            (104, Some(Failure::Differs)),
            (108, Some(Failure::Differs)),
            (126, Some(Failure::Other)),
        ] {
            assert_eq!(Failure::of(code), failure, "{code}");
        }
    }

    #[test]
    fn only_a_failed_download_is_a_network_failure() {
        for said in [
            "error: unable to download 'https://example.org/x': Couldn't resolve host name (6)",
            "       error: unable to download 'https://example.org/x': HTTP error 503",
            "error: unable to download 'https://example.org/x': HTTP error 429",
        ] {
            assert!(is_network(said), "{said}");
        }
        for said in [
            "error: the licence server timed out, try again",
            "error: attribute 'unable to download' missing",
            "warning: unable to download 'x': timed out\nerror: syntax error",
            "error: unable to download 'https://example.org/x': HTTP error 404",
            "error: Could not resolve the attribute",
        ] {
            assert!(!is_network(said), "{said}");
        }
    }
}
