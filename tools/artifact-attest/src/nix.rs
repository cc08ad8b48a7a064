//! Runs Nix: evaluates a flake, builds it, and checks a second build.

mod aterm;
pub(crate) mod crates;
pub(crate) mod drv;
pub(crate) mod inputs;
pub(crate) mod meta;
pub(crate) mod roots;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ::remote::percent_encode_except;
use serde_json::Value;

use crate::Error;
use crate::failure::{self, Cause, Failure};
use crate::git::Borrowed;
use crate::oci::Digest;
use crate::source::Source;
use crate::spec::Build;
use crate::tool::{self, Ended};
use crates::CrateLicenses;
use drv::Graph;
use inputs::{Input, hex, inputs_of};
use meta::{Meta, TOLD, Told};
use roots::Roots;

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
    /// The derivation itself, with everything that it needs.
    pub(crate) graph: Graph,
    /// Description of the package by itself.
    pub(crate) meta: Meta,
}

/// Store paths, with the SHA-256 of their NARs in hexadecimal.
pub(crate) type Closure = BTreeMap<String, String>;
/// Store paths that a path of the closure names, without the path itself.
pub(crate) type References = BTreeMap<String, BTreeSet<String>>;

/// Version and settings of Nix on the machine that signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Builder {
    /// Version, for example `2.34.8`, or `2.93.0 (Lix, like Nix)`.
    pub(crate) nix: String,
    /// Settings by their names in nix.conf.
    pub(crate) settings: BTreeMap<String, Value>,
}

/// Settings of Nix that tell how much a build proves: whether builders see more than their inputs, and the builder's
/// own system.
const SETTINGS: [&str; 3] = ["sandbox", "sandbox-fallback", "system"];

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
    pub(crate) references: References,
    pub(crate) builder: Builder,
    /// Licences that the archives of crates declare.
    pub(crate) licenses: CrateLicenses,
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
    /// Time limit of each evaluation.
    limit: Duration,
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
        let limit = Duration::from_secs(build.timeout_seconds.into());
        let flake = |rev| Flake { borrowed: &borrowed, variables: &variables, folder, rev, limit };
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
        let (source, Told { drv: path, result: out, version, meta }) = chosen;
        let read = |path: &str| {
            fs::read(path).map_err(|source| Error::Unreadable { what: path.to_owned(), source })
        };
        let (digest, graph) = (Digest::of(&read(&path)?), Graph::read(&path, read)?);
        let metadata = self.metadata(&flake(&source.rev), &self.overrides())?;
        let inputs = serde_json::from_slice::<Value>(&metadata.stdout)
            .map_err(|_| garbled("flake metadata"))?;
        let inputs =
            inputs_of(&inputs).ok_or_else(|| garbled("flake metadata"))?.map_err(|input| {
                Error::Unlocked { said: format!("the lock has no hash of {input}") }
            })?;
        Ok((source, Derivation { path, digest, out, version, inputs, graph, meta }))
    }

    /// Returns the store paths of the `.drv` file and of the build result, and what the package says of itself.
    fn derivation(&self, flake: &Flake<'_>, build: &Build) -> Result<Told, Error> {
        let (system, attribute) = (build.system.nix(), build.attribute.as_str());
        let installable = format!("{}#packages.{system}.\"{attribute}\"", flake.url());
        let eval = ["eval", "--json", "--apply", TOLD, &installable];
        let overrides = self.overrides();
        let all = [&eval[..], &overrides.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let told = self.nix(flake, &all)?;
        let told: Told = serde_json::from_slice(&told.stdout).map_err(|_| garbled("eval"))?;
        let is_path = |path: &String| path.starts_with('/') && !path.contains("..");
        if is_path(&told.drv) && is_path(&told.result) { Ok(told) } else { Err(garbled("eval")) }
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
        let Flake { borrowed, folder, rev, .. } = *flake;
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
        let named =
            tool::run_tied(self.document, "nix-instantiate", arguments, &[], Some(flake.limit))?;
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
        let ended = tool::run_tied(self.document, "nix", all, &variables, Some(flake.limit))?;
        if ended.code == Some(0) {
            return Ok(ended);
        }
        if ended.is_late {
            return Err(Error::EvaluationTimeout { said: ended.said });
        }
        let temporary = failure::is_network(&ended.said);
        Err(Error::Evaluation { said: ended.said, temporary })
    }

    /// Builds all outputs of `derivation`, or takes them from the store or a substituter, and keeps them in the store.
    pub(crate) fn build(
        &self,
        derivation: &Derivation,
        build: &Build,
        roots: &Roots,
    ) -> Result<(), Error> {
        let link = roots.link().display().to_string();
        self.realise(derivation, build, &["--add-root", &link, &derivation.path])
    }

    /// Keeps a result in the store. Returns whether the store has it.
    pub(crate) fn keep(&self, out: &str, roots: &Roots) -> Result<bool, Error> {
        let link = roots.link().display().to_string();
        let arguments = ["--realise", "--add-root", &link, out];
        Ok(tool::run_tied(self.document, "nix-store", arguments, &[], None)?.code == Some(0))
    }

    /// Builds a result in the store again, and compares both.
    pub(crate) fn rebuild(&self, derivation: &Derivation, build: &Build) -> Result<(), Error> {
        self.realise(derivation, build, &["--check", &derivation.path])
    }

    fn realise(&self, derivation: &Derivation, build: &Build, more: &[&str]) -> Result<(), Error> {
        let seconds = build.timeout_seconds.to_string();
        let arguments = [&["--realise", "--timeout", &seconds], more].concat();
        let ended = tool::run_tied(self.document, "nix-store", arguments, &[], None)?;
        let (path, said) = (derivation.path.clone(), ended.said);
        let Some(code) = ended.code else {
            return Err(Error::Nix { path, said, cause: Cause::Killed });
        };
        Err(match Failure::of(code, &said, |path| derivation.graph.is_fixed(path)) {
            None => return Ok(()),
            Some(Failure::Differs) => Error::NotReproducible { path, said },
            Some(Failure::TimedOut) => Error::BuildTimeout { path, said },
            Some(Failure::Cause(cause @ (Cause::Builder | Cause::HashMismatch))) => {
                Error::Build { path, said, cause }
            }
            Some(Failure::Cause(cause)) => Error::Nix { path, said, cause },
        })
    }

    /// Returns the build result with its runtime dependencies, and what each of them names.
    pub(crate) fn closure(&self, derivation: &Derivation) -> Result<(Closure, References), Error> {
        let ended = self.path_info(&["--recursive", &derivation.out], &[])?;
        if ended.code != Some(0) {
            let cause = ended.code.map_or(Cause::Killed, |_| Cause::Other);
            return Err(Error::Nix { path: derivation.path.clone(), said: ended.said, cause });
        }
        let infos: Value =
            serde_json::from_slice(&ended.stdout).map_err(|_| garbled("path-info"))?;
        closure(&infos).ok_or_else(|| garbled("path-info"))
    }

    /// Runs `nix path-info --json` with `arguments` and further environment variables.
    pub(crate) fn path_info(
        &self,
        arguments: &[&str],
        variables: &[(&str, &OsStr)],
    ) -> Result<Ended, Error> {
        let run = |more: &[&str]| {
            let features = ["--extra-experimental-features", "nix-command", "path-info", "--json"];
            let all = [&features[..], more, arguments].concat();
            tool::run_tied(self.document, "nix", all, variables, None)
        };
        // Nix 2.33 and newer warn without the flag that "it will become an error"; older ones, and Lix,
        // do not know the flag (Nix, `src/nix/path-info.cc`).
        let ended = run(&["--json-format", "1"])?;
        if ended.code != Some(0) && ended.said.contains("--json-format") {
            return run(&[]);
        }
        Ok(ended)
    }

    /// Returns the version and the settings of Nix. With a daemon, they are those of this user's configuration.
    pub(crate) fn builder(&self) -> Result<Builder, Error> {
        let run = |arguments: &[&str]| {
            let all = [&["--extra-experimental-features", "nix-command"], arguments].concat();
            tool::run_tied(self.document, "nix", all, &[], None)
        };
        let nix = version(&run(&["--version"])?.text()).ok_or_else(|| garbled("--version"))?;
        // Nix before 2.20 knows the older name alone.
        let mut shown = run(&["config", "show", "--json"])?;
        if shown.code != Some(0) {
            shown = run(&["show-config", "--json"])?;
        }
        let all: Value =
            serde_json::from_slice(&shown.stdout).map_err(|_| garbled("config show"))?;
        let setting = |name: &str| {
            let value = &all[name]["value"];
            (!value.is_null()).then(|| (name.to_owned(), value.clone()))
        };
        let settings = SETTINGS.into_iter().filter_map(setting).collect();
        Ok(Builder { nix, settings })
    }
}

/// Reads the output of `nix --version`: `nix (Nix) 2.34.8`, or `nix (Lix, like Nix) 2.93.0`.
fn version(text: &str) -> Option<String> {
    let (name, version) = text.lines().next()?.strip_prefix("nix (")?.split_once(") ")?;
    Some(if name == "Nix" { version.to_owned() } else { format!("{version} ({name})") })
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
        let named = info["references"].as_array()?.iter();
        let mut named =
            named.map(|path| path.as_str().map(str::to_owned)).collect::<Option<BTreeSet<_>>>()?;
        named.remove(path);
        if !named.is_empty() {
            references.insert(path.to_owned(), named);
        }
    }
    Some((closure, references))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SRI: &str = "sha256-r2f1oUwixlgq9zOdYLqJLfS/lWBT60/IITjhTKI59JU=";

    #[test]
    fn path_info_of_old_and_new_nix_is_read() {
        let named = ["/nix/store/a", "/nix/store/b"];
        let old = json!([{"path": "/nix/store/a", "narHash": SRI, "references": named, "registrationTime": 1}]);
        let new = json!({"/nix/store/a": {"narHash": SRI, "references": named}});
        let (_, references) = closure(&old).expect("read");
        assert_eq!(
            references,
            [("/nix/store/a".to_owned(), ["/nix/store/b".to_owned()].into())].into()
        );
        assert_eq!(closure(&old), closure(&new));
        for odd in [json!({"references": []}), json!({"narHash": SRI})] {
            assert_eq!(closure(&json!({"/nix/store/a": odd})), None, "unknown is not absent");
        }
    }

    #[test]
    fn special_characters_in_a_folder_are_encoded() {
        let url = url(Path::new("/a b&c"), "ü#1", "f00");
        assert_eq!(url, "git+file:///a%20b%26c?dir=%C3%BC%231&rev=f00");
    }

    #[test]
    fn the_version_of_nix_names_other_implementations() {
        assert_eq!(version("nix (Nix) 2.8.0").as_deref(), Some("2.8.0"));
        assert_eq!(
            version("nix (Lix, like Nix) 2.93.0\nmore").as_deref(),
            Some("2.93.0 (Lix, like Nix)")
        );
        assert_eq!(version("nix 2"), None);
    }
}
