//! The components that the lab builds, as data: their Go modules, their build flags, and the kinds
//! of documents that need them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::files;

/// A Go module in `continuous-integration/components` and the programs that are built from it.
#[derive(Debug)]
pub(crate) struct Component {
    /// Name of the component, and of its folder unless `module` names another one.
    pub(crate) name: &'static str,
    /// Folder of a module that another component has as well; empty for a folder of its own. In one module,
    /// both components have the same versions, so Go compiles their common packages once.
    pub(crate) module: &'static str,
    /// Go packages, all built in one `go build`.
    pub(crate) packages: &'static [&'static str],
    /// Each program's name after the build and its name in the folder `bin`.
    pub(crate) programs: &'static [(&'static str, &'static str)],
    /// Linker flags in addition to `-s -w`; empty for none.
    pub(crate) linker: &'static str,
    /// Go build tags, separated by commas; empty for none.
    pub(crate) tags: &'static str,
    /// Whether the build needs a C compiler.
    pub(crate) cgo: bool,
    /// A Go module and its folders that the program needs at run time.
    pub(crate) assets: Option<(&'static str, &'static [&'static str])>,
    /// Kinds of documents that need this component.
    pub(crate) needed_by: &'static [&'static str],
    /// Whether `lab build` without a name builds this component.
    pub(crate) by_default: bool,
}

const PLAIN: Component = Component {
    name: "",
    module: "",
    packages: &[],
    programs: &[],
    linker: "",
    tags: "",
    cgo: false,
    assets: None,
    needed_by: &[],
    by_default: false,
};

/// Flags of the C compiler. Go's default has the optimisation of a release, and debug information, which the linker
/// would remove again.
pub(crate) const C_FLAGS: &str = "-O1";

/// Argument of `lab build` that means every component and every Debian package that a lab may need.
/// The tests use all of them.
const ALL: &str = "all";

/// Every component. The ones that most documents depend on come first.
pub(crate) const COMPONENTS: &[Component] = &[
    Component {
        name: "etcd",
        packages: &["go.etcd.io/etcd/server/v3"],
        programs: &[("server", "etcd")],
        needed_by: &["Cluster"],
        by_default: true,
        ..PLAIN
    },
    Component {
        name: "kubernetes",
        packages: &[
            "k8s.io/kubernetes/cmd/kube-apiserver",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-scheduler",
            "k8s.io/kubernetes/cmd/kubelet",
            "k8s.io/kubernetes/cmd/kubectl",
        ],
        programs: &[
            ("kube-apiserver", "kube-apiserver"),
            ("kube-controller-manager", "kube-controller-manager"),
            ("kube-scheduler", "kube-scheduler"),
            ("kubelet", "kubelet"),
            ("kubectl", "kubectl"),
        ],
        // Without these flags the API server reports version v0.0.0.
        linker: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                 -X k8s.io/component-base/version.gitMajor=1 \
                 -X k8s.io/component-base/version.gitMinor=36",
        needed_by: &["Cluster"],
        by_default: true,
        ..PLAIN
    },
    Component {
        name: "gitea",
        packages: &["code.gitea.io/gitea"],
        programs: &[("gitea", "gitea")],
        // `netgo` and `osusergo` are the parts of Go's library that the other components have, which are not in C.
        tags: "netgo,osusergo,sqlite,sqlite_unlock_notify",
        cgo: true,
        assets: Some(("code.gitea.io/gitea", &["options", "templates", "public"])),
        needed_by: &["Repository"],
        by_default: true,
        ..PLAIN
    },
    Component {
        name: "flux",
        packages: &[
            "github.com/fluxcd/source-controller",
            "github.com/fluxcd/kustomize-controller",
        ],
        programs: &[
            ("source-controller", "source-controller"),
            ("kustomize-controller", "kustomize-controller"),
        ],
        needed_by: &["Delivery"],
        by_default: true,
        ..PLAIN
    },
    // The lab publishes its images with crane.
    Component {
        name: "crane",
        packages: &["github.com/google/go-containerregistry/cmd/crane"],
        programs: &[("crane", "crane")],
        needed_by: &["Cluster", "Delivery"],
        by_default: true,
        ..PLAIN
    },
    Component {
        name: "object-store",
        packages: &["github.com/versity/versitygw/cmd/versitygw"],
        programs: &[("versitygw", "versitygw")],
        needed_by: &["Drain"],
        ..PLAIN
    },
    // Tests compare the programs with these tools, and the lab does not need them.
    Component {
        name: "oracles",
        packages: &[
            "github.com/getsops/sops/v3/cmd/sops",
            "github.com/sigstore/cosign/v3/cmd/cosign",
        ],
        programs: &[("sops", "sops"), ("cosign", "cosign")],
        ..PLAIN
    },
    // The part of source-controller that verifies signatures, as a program of its own.
    Component {
        name: "flux-verifier",
        module: "flux",
        packages: &["./verifier"],
        programs: &[("verifier", "flux-verifier")],
        ..PLAIN
    },
    // Verifiers of images beside cosign 3. `tester` is policy-controller's verification without a cluster.
    Component {
        name: "verifiers",
        module: "oracles",
        packages: &[
            "github.com/sigstore/cosign/v2/cmd/cosign",
            "github.com/sigstore/policy-controller/cmd/tester",
        ],
        programs: &[("cosign", "cosign2"), ("tester", "policy-tester")],
        ..PLAIN
    },
    Component {
        name: "actions",
        packages: &["github.com/nektos/act", "github.com/rhysd/actionlint/cmd/actionlint"],
        programs: &[("act", "act"), ("actionlint", "actionlint")],
        ..PLAIN
    },
    // A test runs flanneld as Talos v1.13.9 does. Talos has 0.28.8, which the Go proxy does not offer.
    Component {
        name: "flannel",
        packages: &["github.com/flannel-io/flannel"],
        programs: &[("flannel", "flanneld")],
        // The backend `udp`, which is linked in, is written in C.
        cgo: true,
        ..PLAIN
    },
    // The registry of go-containerregistry serves the referrers API; Debian's registry does not.
    Component {
        name: "referrers",
        packages: &[".", "./strict"],
        programs: &[("ggcr-registry", "ggcr-registry"), ("strict", "strict-registry")],
        ..PLAIN
    },
];

impl Component {
    /// Returns whether `names` selects every component.
    pub(crate) fn are_all(names: &[String]) -> bool {
        names == [ALL]
    }

    /// Returns the components called `names`, or those that the lifecycle needs if `names` is empty.
    pub(crate) fn named(names: &[String]) -> Result<Vec<&'static Self>, Error> {
        if Self::are_all(names) {
            return Ok(COMPONENTS.iter().collect());
        }
        if names.is_empty() {
            return Ok(COMPONENTS.iter().filter(|component| component.by_default).collect());
        }
        for name in names {
            if !COMPONENTS.iter().any(|component| component.name == name) {
                let known: Vec<_> = COMPONENTS.iter().map(|component| component.name).collect();
                return Err(Error::NoSuchComponent { name: name.clone(), known: known.join(", ") });
            }
        }
        let is_named = |component: &&Self| names.iter().any(|name| component.name == name);
        Ok(COMPONENTS.iter().filter(is_named).collect())
    }

    /// Returns the folder of the component's Go module in the folder `components`.
    pub(crate) fn folder(&self, components: &Path) -> PathBuf {
        components.join(if self.module.is_empty() { self.name } else { self.module })
    }

    /// Returns the flags of `go build`. They make the build reproducible: two builds give the same
    /// bytes. Debug information is switched off, because it is a tenth of the compiler's work
    /// and the linker would remove it again.
    pub(crate) fn flags(&self) -> Vec<String> {
        let linker = format!("-s -w {}", self.linker);
        let mut flags = vec![
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-gcflags=all=-dwarf=false",
            "-ldflags",
            linker.trim_end(),
        ];
        if !self.tags.is_empty() {
            flags.extend(["-tags", self.tags]);
        }
        flags.into_iter().map(str::to_owned).collect()
    }

    /// Returns a digest of everything that decides the component's bytes: module versions, build
    /// flags, and the sources in this repository.
    pub(crate) fn key(&self, components: &Path) -> Result<String, Error> {
        let folder = self.folder(components);
        let mut parts = BTreeMap::new();
        let local = self.packages.iter().filter_map(|package| package.strip_prefix('.'));
        let sources =
            local.map(|path| format!("{path}/main.go").trim_start_matches('/').to_owned());
        for name in ["go.mod", "go.sum"].map(str::to_owned).into_iter().chain(sources) {
            let path = folder.join(&name);
            let bytes = fs::read(&path).map_err(files::cannot("read", &path))?;
            parts.insert(name, bytes);
        }
        for local in local_modules(&String::from_utf8_lossy(&parts["go.mod"])) {
            contents(&folder.join(&local), &local, &mut parts)?;
        }
        let packages = self.packages.iter().map(|package| (*package).to_owned()).collect();
        let asked = [self.flags(), packages].concat();
        let c_flags = self.cgo.then_some(C_FLAGS);
        parts.insert("flags".to_owned(), format!("{asked:?} cgo={c_flags:?}").into_bytes());
        let mut digest = Sha256::new();
        for (name, bytes) in parts {
            digest.update(format!("{name} {}\n", bytes.len()));
            digest.update(bytes);
        }
        Ok(files::hex(&digest.finalize()[..8]))
    }
}

/// Returns the folders that a `go.mod` uses in place of modules (`replace`).
fn local_modules(text: &str) -> Vec<String> {
    let replaced = text.lines().filter_map(|line| line.split_once("=> ")).map(|(_, to)| to.trim());
    let is_local = |path: &&str| path.starts_with("./") || path.starts_with("../");
    replaced.filter(is_local).map(str::to_owned).collect()
}

/// Adds every file in `folder` to `parts`, by its name.
fn contents(folder: &Path, name: &str, parts: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(files::cannot("read", folder))?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    for path in paths {
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            contents(&path, &name, parts)?;
        } else {
            let bytes = fs::read(&path).map_err(files::cannot("read", &path))?;
            parts.insert(name, bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    fn component(name: &str) -> &'static Component {
        COMPONENTS.iter().find(|component| component.name == name).expect("a name in COMPONENTS")
    }

    #[test]
    fn the_key_changes_only_when_an_input_of_the_build_changes() -> Test {
        let folder = tempfile::tempdir()?;
        let module = folder.path().join("components/flux");
        let ours = folder.path().join("components/ours");
        fs::create_dir_all(&module)?;
        fs::create_dir_all(ours.join("deep"))?;
        fs::write(module.join("go.mod"), "module x\nreplace (\n\texample.org/a => ../ours\n)\n")?;
        fs::write(module.join("go.sum"), "a v1 h1:x\n")?;
        fs::create_dir_all(module.join("verifier"))?;
        fs::write(module.join("verifier/main.go"), "package main\n")?;
        fs::write(ours.join("deep/a.go"), "package a\n")?;
        let components = folder.path().join("components");
        let key = || component("flux").key(&components);

        let first = key()?;
        fs::write(module.join("README"), "not an input")?;
        assert_eq!(key()?, first);

        fs::write(module.join("go.sum"), "a v1 h1:y\n")?;
        let second = key()?;
        assert_ne!(second, first, "go.sum decides");

        fs::write(ours.join("deep/a.go"), "package a // changed\n")?;
        assert_ne!(key()?, second, "a local module decides");
        Ok(())
    }

    #[test]
    fn a_module_without_go_sum_is_an_error() -> Test {
        let folder = tempfile::tempdir()?;
        fs::create_dir_all(folder.path().join("etcd"))?;
        fs::write(folder.path().join("etcd/go.mod"), "module x\n")?;
        assert!(matches!(component("etcd").key(folder.path()), Err(Error::File { .. })));
        Ok(())
    }

    #[test]
    fn build_without_names_selects_the_components_of_the_lifecycle() -> Test {
        let names: Vec<_> = Component::named(&[])?.iter().map(|component| component.name).collect();
        assert_eq!(names, ["etcd", "kubernetes", "gitea", "flux", "crane"]);
        Ok(())
    }
}
