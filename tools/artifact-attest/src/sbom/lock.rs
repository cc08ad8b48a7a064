//! Contents of a `Cargo.lock`: the crates that a build result may contain.
//!
//! A lock does not tell dependencies of tests and build scripts from others, so the crates that a package reaches
//! are a superset of those in its program.

use std::collections::{BTreeMap, BTreeSet};

use ::remote::percent_encode_except;
use serde::Deserialize;

pub(crate) use super::manifest::Manifest;
use crate::nix::drv::Drv;

/// Index of crates.io in a lock (<https://doc.rust-lang.org/cargo/reference/source-replacement.html>).
const CRATES_IO: [&str; 2] =
    ["registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/"];

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Lock {
    #[serde(default, rename = "package")]
    packages: Vec<Package>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Registry or repository of the crate; `None` for the source's own packages.
    source: Option<String>,
    checksum: Option<String>,
    /// Names; with a version, and then a source, where several packages share a name.
    #[serde(default)]
    dependencies: Vec<String>,
}

impl Package {
    /// Returns Cargo's own identifier of a package, which is unique in a lock, without a login.
    pub(crate) fn id(&self) -> String {
        let Self { name, version, source, .. } = self;
        let source = source.as_ref().map(|source| format!(" ({})", without_login(source)));
        format!("{name} {version}{}", source.unwrap_or_default())
    }

    /// Whether `dependency` names this package.
    fn is(&self, dependency: &str) -> bool {
        let mut words = dependency.splitn(3, ' ');
        // Some versions of Cargo leave out the commit of a repository in a dependency.
        let without_commit = |source: &str| source.split('#').next().unwrap_or_default().to_owned();
        let is_source = |source: &str| {
            let source = source.trim_start_matches('(').trim_end_matches(')');
            self.source.as_ref().is_some_and(|known| {
                if source.contains('#') { known == source } else { without_commit(known) == source }
            })
        };
        words.next() == Some(&self.name)
            && words.next().is_none_or(|version| version == self.version)
            && words.next().is_none_or(is_source)
    }

    /// Whether the package belongs to the source itself.
    pub(crate) fn is_own(&self) -> bool {
        self.source.is_none()
    }

    /// Returns the SHA-256 of the crate's archive.
    pub(crate) fn sha256(&self) -> Option<&str> {
        let is_sha256 =
            |hex: &&String| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.checksum.as_ref().filter(is_sha256).map(String::as_str)
    }

    /// Returns the package URL of a crate. The source's own packages have none, because no registry has them
    /// (<https://github.com/package-url/purl-spec/blob/main/types-doc/cargo-definition.md>).
    pub(crate) fn purl(&self) -> Option<String> {
        let source = self.source.as_deref()?;
        let purl = format!("pkg:cargo/{}@{}", self.name, percent_encode_except(&self.version, ""));
        if CRATES_IO.contains(&source) {
            return Some(purl);
        }
        let encoded = |url: &str| percent_encode_except(&without_login(url), ":/");
        let Some(repository) = source.strip_prefix("git+") else {
            let registry = source.split_once('+').map_or(source, |(_, url)| url);
            return Some(format!("{purl}?repository_url={}", encoded(registry)));
        };
        let url = repository.split(['?', '#']).next().unwrap_or_default();
        let commit = repository.split_once('#').map(|(_, commit)| format!("@{commit}"));
        Some(format!(
            "{purl}?vcs_url={}",
            encoded(&format!("git+{url}{}", commit.unwrap_or_default()))
        ))
    }
}

/// Returns `url` without the user and the password of HTTP.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| scheme.contains("http"))
    else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[end..])
}

/// Packages of a lock that a derivation builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// These packages of the source.
    Packages(BTreeSet<String>),
    /// The whole workspace.
    Workspace,
    /// The derivation builds no package of this lock, as far as its variables tell.
    Unknown,
}

impl Lock {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    fn is_own(&self, name: &str) -> bool {
        self.packages.iter().any(|package| package.source.is_none() && package.name == name)
    }

    /// Returns the packages that `drv` builds. `manifest` reads a `Cargo.toml`, by its folder relative to the lock's;
    /// `is_above` tells that the lock is in a folder above the flake's.
    ///
    /// Cargo builds the packages that `--package` names, otherwise the package of its working folder, otherwise the
    /// whole workspace (<https://doc.rust-lang.org/cargo/commands/cargo-build.html#package-selection>). The working
    /// folder is known if it is that of the lock, or `buildAndTestSubdir` of nixpkgs. Otherwise `pname` counts.
    pub(crate) fn roots(
        &self,
        drv: &Drv,
        manifest: impl Fn(&str) -> Option<Manifest>,
        is_above: bool,
    ) -> Roots {
        let flags =
            format!("{} {}", drv.variable("cargoBuildFlags"), drv.variable("cargoExtraArgs"));
        let (selected, is_whole) = selection(&flags);
        let own = |names: Vec<String>| {
            let names: BTreeSet<_> = names.into_iter().filter(|name| self.is_own(name)).collect();
            (!names.is_empty()).then_some(Roots::Packages(names))
        };
        if is_whole && self.is_own(drv.variable("pname")) {
            return Roots::Workspace;
        }
        if let Some(roots) = own(selected) {
            return roots;
        }
        let package = |manifest: &Manifest| manifest.name().map(str::to_owned);
        let folder = drv.variable("buildAndTestSubdir");
        if !folder.is_empty()
            && let Some(roots) =
                manifest(folder).as_ref().and_then(package).and_then(|name| own(vec![name]))
        {
            return roots;
        }
        let here = if is_above { Manifest::default() } else { manifest("").unwrap_or_default() };
        if let Some(roots) = package(&here).and_then(|name| own(vec![name])) {
            return roots;
        }
        let named = own(self.named(drv).into_iter().collect());
        match named {
            Some(_) if here.workspace.is_some() => Roots::Workspace,
            Some(roots) => roots,
            None => Roots::Unknown,
        }
    }

    /// Returns the package that has the name of `drv`: its `pname`, or for a derivation without one the longest name
    /// that its name begins with, if the version follows. nixpkgs writes the host in between or at the end
    /// (`hostSuffix` and `staticMarker` in `pkgs/stdenv/generic/make-derivation.nix`).
    fn named(&self, drv: &Drv) -> Option<String> {
        let (pname, name) = (drv.variable("pname"), drv.variable("name"));
        if !pname.is_empty() {
            return Some(pname.to_owned());
        }
        let fits = |package: &&Package| {
            let rest = name.strip_prefix(&package.name).and_then(|rest| rest.strip_prefix('-'));
            let version = &package.version;
            let has_version = |rest: &str| {
                rest.split_once(version.as_str()).is_some_and(|(before, after)| {
                    (before.is_empty() || before.ends_with('-'))
                        && (after.is_empty() || after.starts_with('-'))
                })
            };
            package.source.is_none() && (name == package.name || rest.is_some_and(has_version))
        };
        let fitting = self.packages.iter().filter(fits);
        fitting.map(|package| package.name.clone()).max_by_key(String::len)
    }

    /// Returns the packages that `dependency` names. Several fit only in a lock that Cargo has not written.
    fn found(&self, dependency: &str) -> impl Iterator<Item = usize> {
        let packages = self.packages.iter().enumerate();
        packages.filter(move |(_, package)| package.is(dependency)).map(|(index, _)| index)
    }
}

/// Returns the packages that Cargo's arguments name, and whether they name the whole workspace.
fn selection(flags: &str) -> (Vec<String>, bool) {
    let mut selected = Vec::new();
    let mut words = flags.split_whitespace();
    let mut is_whole = false;
    while let Some(word) = words.next() {
        let named = match word {
            "-p" | "--package" => words.next(),
            "--workspace" | "--all" => {
                is_whole = true;
                None
            }
            word => word.strip_prefix("--package=").or_else(|| {
                word.strip_prefix("-p").filter(|rest| !rest.is_empty() && !word.starts_with("--"))
            }),
        };
        // A specification may have a version: `name@1.0.0`, `name:1.0.0`.
        selected.extend(named.and_then(|name| name.split(['@', ':']).next()).map(str::to_owned));
    }
    (selected, is_whole)
}

/// Crates with the identifiers of their direct dependencies, by identifier.
pub(crate) type Reached<'a> = BTreeMap<String, (&'a Package, BTreeSet<String>)>;

/// The crates of a lock that a build result may contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crates {
    lock: Lock,
    /// Packages of the source that were built; `None` for the whole lock.
    pub(crate) roots: Option<BTreeSet<String>>,
}

impl Crates {
    pub(crate) fn new(lock: Lock, roots: Option<BTreeSet<String>>) -> Self {
        Self { lock, roots }
    }

    /// Returns the crates with the identifiers of their direct dependencies, by identifier, and the identifiers that
    /// the build result itself depends on. The built packages are left out: they are the build result.
    pub(crate) fn reached(&self) -> (Reached<'_>, BTreeSet<String>) {
        let packages = &self.lock.packages;
        let is_root = |package: &Package| {
            let roots = self.roots.as_ref();
            package.source.is_none() && roots.is_some_and(|roots| roots.contains(&package.name))
        };
        let edges = |index: usize| {
            let needed = packages[index].dependencies.iter();
            needed.flat_map(|name| self.lock.found(name)).collect::<Vec<_>>()
        };
        let mut open: Vec<usize> = match self.roots {
            Some(_) => (0..packages.len())
                .filter(|index| is_root(&packages[*index]))
                .flat_map(edges)
                .collect(),
            None => (0..packages.len()).collect(),
        };
        let direct =
            open.iter().filter(|index| self.roots.is_some() || packages[**index].source.is_none());
        let direct: BTreeSet<_> = direct
            .map(|index| &packages[*index])
            .filter(|package| !is_root(package))
            .map(Package::id)
            .collect();
        let mut seen = BTreeSet::new();
        let mut reached = Reached::new();
        while let Some(index) = open.pop() {
            if !seen.insert(index) {
                continue;
            }
            let edges = edges(index);
            let package = &packages[index];
            if !is_root(package) {
                let (_, needed) = reached.entry(package.id()).or_insert((package, BTreeSet::new()));
                let others = edges.iter().map(|index| &packages[*index]);
                let others = others.filter(|other| !is_root(other)).map(Package::id);
                needed.extend(others.filter(|other| *other != package.id()));
            }
            open.extend(edges);
        }
        (reached, direct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";
    const GIT: &str = "git+https://user:sesame@git.example/a.git?branch=main#f00d";

    fn package(name: &str, version: &str, source: &str, needs: &str) -> String {
        let source =
            if source.is_empty() { String::new() } else { format!("source = \"{source}\"\n") };
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n{source}dependencies = [{needs}]\n"
        )
    }

    fn lock(packages: &[String]) -> Result<Lock, String> {
        Lock::read(format!("version = 4\n{}", packages.concat()).as_bytes())
    }

    fn workspace() -> Result<Lock, String> {
        lock(&[
            package("first", "0.1.0", "", r#""shared", "a 2.0.0""#),
            package("second", "0.1.0", "", r#""shared", "b", "a 1.0.0""#),
            package("first-extra", "0.1.0", "", ""),
            package("shared", "0.1.0", "", r#""c""#),
            package("a", "1.0.0", INDEX, ""),
            package("a", "2.0.0", INDEX, r#""c""#),
            package("b", "1.0.0", INDEX, ""),
            package("c", "1.0.0", INDEX, r#""a 2.0.0""#), // a cycle, as dev-dependencies can have
        ])
    }

    fn drv(variables: &[(&str, &str)]) -> Drv {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| format!("(\"{name}\",\"{value}\")")).collect();
        let text = format!("Derive([],[],[],\"s\",\"b\",[],[{}])", variables.join(","));
        Drv::read(text.as_bytes()).expect("a derivation")
    }

    fn names(crates: &Crates) -> (String, String) {
        let (reached, direct) = crates.reached();
        let short = |id: &String| id.split(" (").next().unwrap_or_default().to_owned();
        let join = |ids: Vec<String>| ids.join(", ");
        (join(reached.keys().map(short).collect()), join(direct.iter().map(short).collect()))
    }

    #[test]
    fn only_crates_that_the_package_reaches_are_listed() -> Result<(), String> {
        let crates = |roots: &[&str]| {
            let roots = roots.iter().map(|root| (*root).to_owned()).collect();
            Ok::<_, String>(Crates::new(workspace()?, Some(roots)))
        };
        assert_eq!(
            names(&crates(&["first"])?),
            ("a 2.0.0, c 1.0.0, shared 0.1.0".to_owned(), "a 2.0.0, shared 0.1.0".to_owned())
        );
        assert_eq!(names(&crates(&["first", "shared"])?).0, "a 2.0.0, c 1.0.0");
        assert_eq!(
            names(&crates(&["second"])?).0,
            "a 1.0.0, a 2.0.0, b 1.0.0, c 1.0.0, shared 0.1.0"
        );
        let (all, direct) = names(&Crates::new(workspace()?, None));
        assert_eq!(all.split(", ").count(), 8);
        assert_eq!(direct, "first 0.1.0, first-extra 0.1.0, second 0.1.0, shared 0.1.0");
        Ok(())
    }

    #[test]
    fn crates_of_one_version_from_two_sources_are_two_crates() -> Result<(), String> {
        let needs = format!("\"a 1.0.0 ({INDEX})\"");
        let needs_git = format!("\"a 1.0.0 ({})\"", GIT.split('#').next().unwrap_or_default());
        let lock = lock(&[
            package("first", "0.1.0", "", &needs),
            package("second", "0.1.0", "", &needs_git),
            package("third", "0.1.0", "", &format!("\"a 1.0.0 ({GIT})\"")),
            package("a", "1.0.0", INDEX, ""),
            package("a", "1.0.0", GIT, ""),
            package("a", "1.0.0+meta", "sparse+https://registry.example/index/", ""),
        ])?;
        let purls = |root: &str| {
            let crates = Crates::new(lock.clone(), Some([root.to_owned()].into()));
            crates
                .reached()
                .0
                .values()
                .filter_map(|(package, _)| package.purl())
                .collect::<Vec<_>>()
        };
        let of_git = "pkg:cargo/a@1.0.0?vcs_url=git%2Bhttps://git.example/a.git%40f00d";
        assert_eq!(purls("first"), ["pkg:cargo/a@1.0.0"]);
        assert_eq!(purls("second"), [of_git]);
        assert_eq!(purls("third"), [of_git]);
        let of_registry = "pkg:cargo/a@1.0.0%2Bmeta?repository_url=https://registry.example/index/";
        assert_eq!(lock.packages.last().and_then(Package::purl).as_deref(), Some(of_registry));
        Ok(())
    }

    #[test]
    fn the_built_package_is_known_by_flags_then_folders_then_names() -> Result<(), String> {
        let manifest = |text: &'static str| {
            move |folder: &str| {
                let text = if folder == "sub" { "[package]\nname = \"second\"" } else { text };
                Manifest::read(text.as_bytes())
            }
        };
        let (single, virtual_) =
            ("[package]\nname = \"first\"\n[workspace]", "[workspace]\nmembers = []");
        let packages =
            |names: &[&str]| Roots::Packages(names.iter().map(|name| (*name).to_owned()).collect());
        let lock = workspace()?;
        let cases = [
            // nixpkgs: `-static` and the host stand in the name, and not in `pname`.
            (
                drv(&[
                    ("pname", "first"),
                    ("name", "first-static-x86_64-unknown-linux-musl-0.1.0"),
                ]),
                "",
                false,
                packages(&["first"]),
            ),
            (
                drv(&[("name", "first-0.1.0-aarch64-unknown-linux-gnu")]),
                "",
                false,
                packages(&["first"]),
            ),
            (
                drv(&[("name", "first-extra-static-x86_64-unknown-linux-musl-0.1.0")]),
                "",
                false,
                packages(&["first-extra"]),
            ),
            (drv(&[("name", "first-0.1.01")]), "", false, Roots::Unknown),
            (drv(&[("name", "firstborn-0.1.0")]), "", false, Roots::Unknown),
            // A virtual workspace without `--package` builds all of its members.
            (drv(&[("pname", "first")]), virtual_, false, Roots::Workspace),
            (drv(&[("pname", "first")]), virtual_, true, packages(&["first"])),
            (
                drv(&[
                    ("pname", "other"),
                    ("cargoBuildFlags", "--release -p second --package=first@0.1.0"),
                ]),
                virtual_,
                false,
                packages(&["first", "second"]),
            ),
            (
                drv(&[("pname", "first"), ("cargoExtraArgs", "--locked --workspace")]),
                single,
                false,
                Roots::Workspace,
            ),
            (
                drv(&[("pname", "first"), ("buildAndTestSubdir", "sub")]),
                single,
                false,
                packages(&["second"]),
            ),
            (drv(&[("pname", "other")]), single, false, packages(&["first"])),
            (drv(&[("pname", "a")]), "", false, Roots::Unknown),
            (drv(&[("pname", "ripgrep"), ("cargoBuildFlags", "-p rg")]), "", true, Roots::Unknown),
        ];
        for (drv, text, is_above, expected) in cases {
            assert_eq!(lock.roots(&drv, manifest(text), is_above), expected, "{drv:?} {text}");
        }
        Ok(())
    }
}
