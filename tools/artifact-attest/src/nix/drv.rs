//! Store derivations (`.drv` files): the names, versions and fixed outputs of everything that a build needs.
//!
//! The files are read directly. Their form decides every store path, so it is the same in all versions of Nix, unlike
//! the JSON of `nix derivation show` (<https://nix.dev/manual/nix/latest/protocols/derivation-aterm>).

use std::collections::{BTreeMap, BTreeSet};

use ::remote::percent_encode_except;
use serde_json::Value;

use super::aterm::{Term, term};
use crate::Error;

/// Variables of a derivation that this program reads: names and sources in nixpkgs, and what nixpkgs'
/// `buildRustPackage` and crane tell Cargo.
const KEPT: [&str; 14] = [
    "pname",
    "version",
    "name",
    "url",
    "urls",
    "rev",
    "leaveDotGit",
    "cargoDeps",
    "cargoVendorDir",
    "cargoArtifacts",
    VENDOR_STAGING,
    "cargoBuildFlags",
    "cargoExtraArgs",
    "buildAndTestSubdir",
];
/// Variable of nixpkgs' `fetchCargoVendor`: the folder with the archives of all crates of a lock
/// (<https://github.com/NixOS/nixpkgs/blob/master/pkgs/build-support/rust/fetch-cargo-vendor.nix>).
const VENDOR_STAGING: &str = "vendorStaging";
/// Variables that only a build with Cargo has (nixpkgs `buildRustPackage`; crane).
const OF_CARGO: [&str; 3] = ["cargoDeps", "cargoVendorDir", "cargoArtifacts"];
/// Most derivations of one build. A system configuration of `NixOS` has about 10,000.
const DERIVATIONS_MAX: usize = 200_000;

/// One derivation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drv {
    outputs: Vec<Output>,
    /// Store paths of the derivations that it needs.
    inputs: Vec<String>,
    variables: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Output {
    name: String,
    /// Store path; empty if only a build can tell.
    path: String,
    /// Method and algorithm, for example `r:sha256`; empty if the content is not fixed.
    method: String,
    /// Hash in hexadecimal; empty if the content is not fixed.
    hash: String,
}

/// Content that a derivation fixes by its hash: a download, most often.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fixed {
    pub(crate) uri: String,
    /// Kind of the digest, for example `sha256` for a file and `narSha256` for a folder.
    pub(crate) algorithm: String,
    pub(crate) hex: String,
}

/// A derivation whose content is fixed by its hash, and the store path of that content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Download<'a> {
    pub(crate) drv: &'a str,
    pub(crate) path: &'a str,
}

/// Name and version of a package, and the name of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package<'a> {
    pub(crate) name: &'a str,
    /// Version; empty if the derivation does not tell it.
    pub(crate) version: &'a str,
    /// Output, for example `out` or `dev`; empty for a path that no derivation makes.
    pub(crate) output: &'a str,
}

impl Drv {
    /// Reads the bytes of a `.drv` file.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut rest = text.strip_prefix("Derive")?;
        let Term::Many(mut fields) = term(&mut rest, 0)? else { return None };
        if fields.len() != 7 || !rest.trim().is_empty() {
            return None;
        }
        let variables = fields.pop()?.many()?.into_iter().map(Term::texts::<2>);
        let variables = variables.collect::<Option<Vec<_>>>()?;
        let outputs = fields.remove(0).many()?.into_iter().map(|output| {
            let [name, path, method, hash] = output.texts::<4>()?;
            Some(Output { name, path, method, hash })
        });
        let outputs = outputs.collect::<Option<Vec<_>>>()?;
        let inputs = fields.remove(0).many()?.into_iter().map(|input| {
            let mut input = input.many()?;
            (input.len() == 2).then(|| input.remove(0).text())?
        });
        let inputs = inputs.collect::<Option<Vec<_>>>()?;
        Some(Self { outputs, inputs, variables: kept(variables) })
    }

    /// Returns a variable; empty if the derivation does not have it.
    pub(crate) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// Whether the builder runs Cargo.
    pub(crate) fn is_cargo(&self) -> bool {
        OF_CARGO.iter().any(|name| self.variables.contains_key(*name))
    }

    /// Returns the content that this derivation fixes.
    fn fixed(&self) -> Option<Fixed> {
        let output = self.outputs.iter().find(|output| !output.hash.is_empty())?;
        let (method, algorithm) = output.method.split_once(':').unwrap_or(("", &output.method));
        let is_hex = output.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return None; // `impure`, for example
        }
        let algorithm = match method {
            "r" => format!("nar{}", capitalised(algorithm)),
            "git" => "gitTree".to_owned(),
            _ => algorithm.to_owned(),
        };
        let uri = self.url().unwrap_or_else(|| store_uri(&output.path));
        Some(Fixed { uri, algorithm, hex: output.hash.clone() })
    }

    /// Returns the URL from which others can fetch the content. A path of this machine is none, and a URL with a
    /// login must not be published.
    fn url(&self) -> Option<String> {
        let urls = self.variable("urls").split_whitespace().next();
        let url = urls.or(Some(self.variable("url")))?;
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next().unwrap_or_default();
        let is_public = ["http", "https", "ftp", "git", "mirror"].contains(&scheme);
        let is_uri =
            url.bytes().all(|byte| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte));
        if !is_public || !is_uri || authority.contains('@') {
            return None;
        }
        let rev = self.variable("rev");
        // `leaveDotGit` is a variable of nixpkgs' `fetchgit` alone.
        let is_git = self.variables.contains_key("leaveDotGit") && !rev.is_empty();
        Some(if is_git { format!("git+{url}@{rev}") } else { url.to_owned() })
    }
}

/// Returns the URI of a store path.
pub(crate) fn store_uri(path: &str) -> String {
    format!("file://{}", percent_encode_except(path, "/+="))
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

/// Keeps the variables in [`KEPT`]. A derivation with structured attributes has them in `__json`
/// (<https://nix.dev/manual/nix/latest/language/advanced-attributes#adv-attr-structuredAttrs>).
fn kept(variables: Vec<[String; 2]>) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for [name, value] in variables {
        if KEPT.contains(&name.as_str()) {
            kept.insert(name, value);
        } else if name == "__json" {
            let all: Value = serde_json::from_str(&value).unwrap_or_default();
            for name in KEPT {
                let text = match &all[name] {
                    Value::String(text) => text.clone(),
                    Value::Bool(is_set) => (if *is_set { "1" } else { "" }).to_owned(),
                    Value::Array(words) => {
                        words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
                    }
                    _ => continue,
                };
                kept.insert(name.to_owned(), text);
            }
        }
    }
    kept
}

/// A derivation with everything that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    /// Derivations by store path.
    drvs: BTreeMap<String, Drv>,
    /// Derivation and output that make a store path.
    makers: BTreeMap<String, (String, String)>,
}

impl Graph {
    /// Reads `top` and every derivation that it needs, each with `read`.
    pub(crate) fn read(
        top: &str,
        read: impl Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<Self, Error> {
        let mut graph = Self::default();
        let mut open = vec![top.to_owned()];
        while let Some(path) = open.pop() {
            if graph.drvs.contains_key(&path) {
                continue;
            }
            let unknown = || Error::DerivationUnknown { path: path.clone() };
            if graph.drvs.len() >= DERIVATIONS_MAX {
                return Err(unknown());
            }
            let drv = Drv::read(&read(&path)?).ok_or_else(unknown)?;
            for Output { name, path: made, .. } in &drv.outputs {
                if !made.is_empty() {
                    graph.makers.insert(made.clone(), (path.clone(), name.clone()));
                }
            }
            open.extend(drv.inputs.iter().cloned());
            graph.drvs.insert(path, drv);
        }
        Ok(graph)
    }

    /// Returns a derivation by its store path.
    pub(crate) fn drv(&self, path: &str) -> Option<&Drv> {
        self.drvs.get(path)
    }

    /// Returns the derivations whose builder runs Cargo.
    pub(crate) fn of_cargo(&self) -> impl Iterator<Item = &Drv> {
        self.drvs.values().filter(|drv| drv.is_cargo())
    }

    /// Returns everything that the build fixes by its hash.
    pub(crate) fn fixed(&self) -> BTreeSet<Fixed> {
        self.drvs.values().filter_map(Drv::fixed).collect()
    }

    /// Returns the files that the build fixes by their SHA-256, by that hash in hexadecimal.
    pub(crate) fn files(&self) -> BTreeMap<&str, Download<'_>> {
        let outputs = self
            .drvs
            .iter()
            .flat_map(|(drv, made)| made.outputs.iter().map(move |output| (drv.as_str(), output)));
        let files =
            outputs.filter(|(_, output)| output.method == "sha256" && !output.path.is_empty());
        files
            .map(|(drv, output)| (output.hash.as_str(), Download { drv, path: &output.path }))
            .collect()
    }

    /// Returns the folders with archives of crates that nixpkgs' `fetchCargoVendor` downloads.
    pub(crate) fn vendored(&self) -> Vec<Download<'_>> {
        let paths: BTreeSet<_> =
            self.drvs.values().map(|drv| drv.variable(VENDOR_STAGING)).collect();
        let made = paths.into_iter().filter_map(|path| {
            let (path, (drv, _)) = self.makers.get_key_value(path)?;
            Some(Download { drv, path })
        });
        made.filter(|download| self.is_fixed(download.drv)).collect()
    }

    /// Whether the derivation at `path` fixes its output, and therefore has access to the network.
    pub(crate) fn is_fixed(&self, path: &str) -> bool {
        self.drv(path).is_some_and(|drv| drv.fixed().is_some())
    }

    /// Returns the package that a store path belongs to: from the variables of its derivation, otherwise from its
    /// name.
    pub(crate) fn package<'a>(&'a self, path: &'a str) -> Package<'a> {
        let (name, version) = parts(path);
        let Some((drv, output)) = self.makers.get(path) else {
            return Package { name, version, output: "" };
        };
        let variable = |name: &str| self.drv(drv).map_or("", |drv| drv.variable(name));
        match (variable("pname"), variable("version")) {
            ("", "") => Package { name, version, output },
            ("", known) => Package { name, version: known, output },
            // nixpkgs always gives both, so a version from the name would be a guess.
            (name, version) => Package { name, version, output },
        }
    }
}

/// Splits the name of a store path into name and version, as Nix does: the version begins after the
/// first `-` before a digit.
fn parts(path: &str) -> (&str, &str) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    let dashes = name.match_indices('-').map(|(at, _)| at);
    let starts = |at: &usize| name[at + 1..].starts_with(|letter: char| letter.is_ascii_digit());
    dashes.into_iter().find(starts).map_or((name, ""), |at| (&name[..at], &name[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a derivation with one output, as Nix writes it.
    fn written(output: &str, inputs: &[&str], variables: &[(&str, &str)]) -> String {
        let inputs: Vec<_> = inputs.iter().map(|path| format!("(\"{path}\",[\"out\"])")).collect();
        let escaped =
            |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| format!("(\"{name}\",\"{}\")", escaped(value)))
            .collect();
        format!(
            "Derive([{output}],[{}],[\"/nix/store/b-builder.sh\"],\"x86_64-linux\",\"/bin/sh\",[\"-e\"],[{}])",
            inputs.join(","),
            variables.join(",")
        )
    }

    fn graph(files: &[(&str, String)]) -> Result<Graph, Error> {
        let files: BTreeMap<_, _> = files.iter().cloned().collect();
        Graph::read("/s/top.drv", |path| Ok(files[path].clone().into_bytes()))
    }

    #[test]
    fn a_package_is_known_by_the_variables_of_its_derivation() -> Result<(), Error> {
        // The name that nixpkgs gives: `pname`, `-static`, the host's suffix, the version.
        let path = "/s/aaa-greeter-static-x86_64-unknown-linux-musl-0.1.0";
        let output = format!("(\"out\",\"{path}\",\"\",\"\")");
        let variables =
            [("pname", "greeter"), ("version", "0.1.0"), ("script", "say \"a\\b\"\nend")];
        let graph = graph(&[("/s/top.drv", written(&output, &[], &variables))])?;
        assert_eq!(
            graph.package(path),
            Package { name: "greeter", version: "0.1.0", output: "out" }
        );
        let unknown = Package { name: "glibc", version: "2.40-66", output: "" };
        assert_eq!(graph.package("/s/bbb-glibc-2.40-66"), unknown, "no derivation makes this path");
        Ok(())
    }

    #[test]
    fn structured_attributes_are_read() -> Result<(), Error> {
        let path = "/s/aaa-a-1";
        let output = format!("(\"out\",\"{path}\",\"\",\"\")");
        let json =
            r#"{"pname":"a b","version":"1","cargoBuildFlags":["-p","a"],"cargoDeps":"/s/x"}"#;
        let graph = graph(&[("/s/top.drv", written(&output, &[], &[("__json", json)]))])?;
        assert_eq!(graph.package(path).name, "a b");
        let drv = graph.drv("/s/top.drv").expect("read");
        assert!(drv.is_cargo());
        assert_eq!(drv.variable("cargoBuildFlags"), "-p a");
        Ok(())
    }

    #[test]
    fn a_store_path_is_split_into_name_and_version() {
        assert_eq!(parts("/nix/store/abc-greeter-0.1.0"), ("greeter", "0.1.0"));
        assert_eq!(parts("/nix/store/abc-font-awesome"), ("font-awesome", ""));
    }

    /// The forms of nixpkgs' fetchers, and what must not be published.
    #[test]
    fn a_fixed_output_has_its_url_or_its_store_path() -> Result<(), Error> {
        let (hex, path) = ("ab".repeat(32), "/s/x-src?++");
        let store = "file:///s/x-src%3F++";
        let cases = [
            ("sha256", &[("url", "https://e.org/a.tgz")][..], "https://e.org/a.tgz", "sha256"),
            ("r:sha256", &[("urls", "mirror://gnu/a https://b")], "mirror://gnu/a", "narSha256"),
            (
                "r:sha512",
                &[("url", "https://e.org/a"), ("rev", "f00"), ("leaveDotGit", "")],
                "git+https://e.org/a@f00",
                "narSha512",
            ),
            (
                "r:sha256",
                &[("url", "https://e.org/a.tgz"), ("rev", "f00")],
                "https://e.org/a.tgz",
                "narSha256",
            ),
            ("sha1", &[("url", "file:///home/user/a")], store, "sha1"),
            ("sha256", &[("url", "https://user:sesame@e.org/a")], store, "sha256"),
            ("sha256", &[("url", "https://e.org/a b")], store, "sha256"),
            ("sha256", &[], store, "sha256"),
        ];
        for (method, variables, uri, algorithm) in cases {
            let output = format!("(\"out\",\"{path}\",\"{method}\",\"{hex}\")");
            let source = written(&output, &[], variables);
            let top = written("(\"out\",\"/s/y\",\"\",\"\")", &["/s/src.drv"], &[]);
            let graph = graph(&[("/s/top.drv", top), ("/s/src.drv", source)])?;
            let expected =
                Fixed { uri: uri.to_owned(), algorithm: algorithm.to_owned(), hex: hex.clone() };
            assert_eq!(graph.fixed().into_iter().collect::<Vec<_>>(), [expected]);
            assert!(graph.is_fixed("/s/src.drv") && !graph.is_fixed("/s/top.drv"));
        }
        Ok(())
    }

    #[test]
    fn archives_of_crates_are_found_by_their_hash_or_in_the_folder_of_nixpkgs() -> Result<(), Error>
    {
        let output = |path: &str, method: &str, hash: &str| {
            written(&format!("(\"out\",\"{path}\",\"{method}\",\"{hash}\")"), &[], &[])
        };
        let (hex, other) = ("ab".repeat(32), "cd".repeat(32));
        let needs = ["/s/crate.drv", "/s/staging.drv", "/s/built.drv", "/s/one.drv", "/s/two.drv"];
        let vendor =
            |path: &str| written("(\"out\",\"/s/v\",\"\",\"\")", &[], &[("vendorStaging", path)]);
        let graph = graph(&[
            ("/s/top.drv", written("(\"out\",\"/s/y\",\"\",\"\")", &needs, &[])),
            ("/s/crate.drv", output("/s/crate.tar.gz", "sha256", &hex)),
            ("/s/staging.drv", output("/s/staging", "r:sha256", &other)),
            ("/s/built.drv", output("/s/built", "", "")),
            ("/s/one.drv", vendor("/s/staging")),
            ("/s/two.drv", vendor("/s/built")), // content that is not fixed may differ by machine
        ])?;
        let archive = Download { drv: "/s/crate.drv", path: "/s/crate.tar.gz" };
        assert_eq!(graph.files(), [(hex.as_str(), archive)].into());
        let folder = Download { drv: "/s/staging.drv", path: "/s/staging" };
        assert_eq!(graph.vendored(), [folder]);
        Ok(())
    }

    #[test]
    fn anything_else_is_no_derivation() {
        let whole = written("(\"out\",\"/s/y\",\"\",\"\")", &["/s/a.drv"], &[("name", "y")]);
        assert!(Drv::read(whole.as_bytes()).is_some());
        for end in 0..whole.len() {
            assert!(Drv::read(&whole.as_bytes()[..end]).is_none(), "{}", &whole[..end]);
        }
        let deep = format!("Derive({}", "[".repeat(100_000));
        for odd in
            ["", "a derivation", "DrvWithVersion(\"xp-dyn-drv\",[],[],[],\"\",\"\",[],[])", &deep]
        {
            assert!(Drv::read(odd.as_bytes()).is_none());
        }
    }
}
