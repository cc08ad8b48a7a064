//! Assembles the releases again from Go modules with kubectl's kustomize.
//!
//! `tasks/update-flux` sets `FLUX_SEED_ASSEMBLE` to a version, and then this code writes
//! `install/VERSION/` before it compares.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::object::Identity;
use crate::spec::{Component, Version};

pub(super) type Test<T = ()> = Result<T, Box<dyn Error>>;

const FLUX: &str = "github.com/fluxcd/flux2/v2";

/// Module that holds, for each release, the digests of the images, and manifests that its authors
/// rendered from upstream's releases.
const OPERATOR: &str = "github.com/controlplaneio-fluxcd/flux-operator";
const OPERATOR_VERSION: &str = "v0.59.0";

/// Downloads a Go module. Returns its folder and the entry for `inputs.json`.
fn module(path: &str, version: &str, scratch: &Path) -> Test<(PathBuf, Value)> {
    let mut go = Command::new("go");
    go.args(["mod", "download", "-json"]).arg(format!("{path}@{version}"));
    go.current_dir("/").env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local");
    let out = go.output().map_err(|error| format!("go: {error}"))?;
    let module: Value = serde_json::from_slice(&out.stdout)?;
    let text = |field: &str| module[field].as_str();
    let folder = match (text("Dir"), text("Zip")) {
        (Some(folder), _) => folder.into(),
        // Go downloads and checks a module that needs a newer Go, and then does not unpack it.
        (None, Some(zip)) => {
            let unpacked = scratch.join("unpacked");
            let mut python = Command::new("python3");
            python.args(["-m", "zipfile", "-e", zip]).arg(&unpacked);
            assert!(python.status()?.success(), "python3 cannot unpack {zip}");
            unpacked.join(format!("{path}@{version}"))
        }
        (None, None) => return Err(format!("go mod download: {}", module["Error"]).into()),
    };
    Ok((folder, json!({"path": path, "version": version, "sum": module["Sum"]})))
}

pub(super) fn kustomize(folder: &Path) -> Test<Vec<Value>> {
    let bin = env::var_os("LAB_BIN")
        .map_or("kubectl".into(), |folder| PathBuf::from(folder).join("kubectl"));
    let out = Command::new(bin).arg("kustomize").arg(folder).output()?;
    assert!(out.status.success(), "kubectl kustomize: {}", String::from_utf8_lossy(&out.stderr));
    Ok(serde_saphyr::from_multiple(std::str::from_utf8(&out.stdout)?)?)
}

/// Copies a folder. `cp` would copy the read-only mode of Go modules, and the copies are changed here.
fn copy(from: &Path, to: &Path) -> Test {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?.path(), to.to_owned());
        let name = entry.file_name().ok_or("a name")?;
        if entry.is_dir() {
            copy(&entry, &to.join(name))?;
        } else {
            fs::write(to.join(name), fs::read(&entry)?)?;
        }
    }
    Ok(())
}

/// Versions of the modules of one release.
struct Modules {
    flux: String,
    operator: String,
    /// Controllers whose module is of another version than the image, because the module proxy does not
    /// offer the released one. [`Inputs::check`] proves that their manifests are equal.
    substitutes: BTreeMap<String, String>,
}

impl Modules {
    /// Reads the versions that `inputs.json` names, or those of the environment when a release is
    /// written.
    fn of(release: &str, committed: &Value) -> Self {
        let version_of = |path: &str| {
            let modules = committed["modules"].as_array().into_iter().flatten();
            let mut modules = modules.filter(|module| module["path"] == path);
            modules.next().and_then(|module| module["version"].as_str()).map(str::to_owned)
        };
        let controller = |component: Component| format!("github.com/fluxcd/{component}");
        let mut substitutes = BTreeMap::new();
        for component in Component::ALL {
            let tag = committed["images"][component.as_str()]["tag"].as_str().map(str::to_owned);
            let version = version_of(&controller(component));
            if let Some(version) = version.filter(|version| Some(version) != tag.as_ref()) {
                substitutes.insert(component.as_str().to_owned(), version);
            }
        }
        let named = env::var("FLUX_SEED_MODULES").unwrap_or_default();
        let named = named.split_whitespace().filter_map(|pair| pair.split_once('='));
        if updated().as_deref() == Some(release) {
            substitutes =
                named.map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
        }
        let operator = substitutes.remove("flux-operator").or_else(|| version_of(OPERATOR));
        Self {
            flux: format!("v{release}"),
            operator: operator.unwrap_or_else(|| OPERATOR_VERSION.to_owned()),
            substitutes,
        }
    }
}

/// Returns the release that `tasks/update-flux` writes.
fn updated() -> Option<String> {
    env::var("FLUX_SEED_ASSEMBLE").ok()
}

/// Files that kustomize would download from the releases of each controller, and their origin.
pub(super) struct Inputs {
    pub(super) folder: TempDir,
    modules: Vec<Value>,
    images: Map<String, Value>,
    /// Folder `config/data` of the operator's module.
    operator: PathBuf,
}

impl Inputs {
    /// Downloads the modules of the release whose `inputs.json` is in `install/`.
    pub(super) fn of(release: &str) -> Test<Self> {
        let committed = committed(release);
        let modules = Modules::of(release, &committed);
        let folder = tempfile::tempdir()?;
        let at = folder.path();
        let (flux, entry) = module(FLUX, &modules.flux, at)?;
        copy(&flux.join("manifests"), at)?;
        let (operator, operator_entry) = module(OPERATOR, &modules.operator, at)?;
        let operator = operator.join("config/data");
        let digests = format!("flux-images/v{release}/upstream-alpine.yaml");
        let pinned = fs::read_to_string(operator.join(&digests))?;
        let pinned: Value = serde_saphyr::from_str(&pinned)?;
        let origin = format!("{OPERATOR}@{}/config/data/{digests}", modules.operator);
        let (mut entries, mut images) = (vec![entry], Map::new());
        for component in Component::ALL {
            let name = component.as_str();
            let tag = redirected(at, name)?;
            let version = modules.substitutes.get(name).unwrap_or(&tag);
            let (dir, entry) = module(&format!("github.com/fluxcd/{name}"), version, at)?;
            entries.push(entry);
            copy(&dir.join("config/crd"), &at.join(name).join("crd"))?;
            let manager = at.join(name).join("manager");
            copy(&dir.join("config/manager"), &manager)?;
            let kustomization = manager.join("kustomization.yaml");
            let text = fs::read_to_string(&kustomization)?;
            let (before, after) = (format!("newTag: {version}"), format!("newTag: {tag}"));
            assert!(text.contains(&before), "{name} {version} has another tag: {text}");
            fs::write(&kustomization, text.replace(&before, &after))?;
            let pins = pinned["images"].as_array().into_iter().flatten();
            let mut pins = pins.filter(|pin| pin["name"] == format!("ghcr.io/fluxcd/{name}"));
            let pin = pins.next().ok_or_else(|| format!("{origin} lacks {name}"))?;
            assert_eq!(pin["newTag"], tag, "{origin}: {name}");
            let before = &committed["images"][name];
            let mut sources = vec![json!(origin)];
            if before["digest"] == pin["digest"] {
                let others = before["sources"].as_array().into_iter().flatten().skip(1);
                sources.extend(others.cloned());
            }
            let image = json!({"tag": tag, "digest": pin["digest"], "sources": sources});
            images.insert(name.to_owned(), image);
        }
        entries.push(operator_entry);
        Ok(Self { folder, modules: entries, images, operator })
    }

    /// Returns the objects of a part, for example `bases/source-controller`.
    fn part(&self, part: &str) -> Test<Vec<Value>> {
        kustomize(&self.folder.path().join(part))
    }

    /// Returns each file of the release with its text.
    fn files(&self, release: &str) -> Test<Vec<(String, String)>> {
        let lines = |part: &str| -> Test<String> {
            let lines: Vec<_> = self.part(part)?.iter().map(ToString::to_string).collect();
            Ok(lines.join("\n") + "\n")
        };
        let mut files = Vec::new();
        for component in Component::ALL {
            let text = lines(&format!("bases/{component}"))?;
            files.push((format!("{component}.jsonl"), text));
        }
        files.push(("rbac.jsonl".to_owned(), lines("rbac")?));
        files.push(("policies.jsonl".to_owned(), lines("policies")?));
        let before = committed(release);
        let digests = |images: &Value| -> Vec<Value> {
            let images = images.as_object().into_iter().flatten();
            images.map(|(_, image)| image["digest"].clone()).collect()
        };
        let images = Value::Object(self.images.clone());
        let is_same = digests(&before["images"]) == digests(&images);
        let signatures = if is_same { before["signatures"].clone() } else { "not checked".into() };
        let inputs = json!({
            "flux": release,
            "modules": self.modules,
            "images": images,
            "signatures": signatures,
        });
        files.push(("inputs.json".to_owned(), format!("{inputs:#}\n")));
        Ok(files)
    }

    /// Compares the assembled objects with those that the operator's authors rendered. This proves the
    /// manifests of a substituted module, and finds a mistake of this assembler.
    fn check(&self, release: &str) -> Test {
        let rendered = |part: &str| -> Test<BTreeMap<Identity, Value>> {
            let file = self.operator.join(format!("flux/v{release}/{part}.yaml"));
            Ok(sorted(serde_saphyr::from_multiple(&fs::read_to_string(file)?)?))
        };
        for component in Component::ALL {
            let ours = sorted(self.part(&format!("bases/{component}"))?);
            assert!(ours == rendered(component.as_str())?, "{component} of {release} differs");
        }
        for part in ["rbac", "policies"] {
            assert!(sorted(self.part(part)?) == rendered(part)?, "{part} of {release} differ");
        }
        Ok(())
    }
}

/// Lets the base of a controller refer to copied files instead of a release's files. Returns the
/// controller's version.
fn redirected(at: &Path, name: &str) -> Test<String> {
    let base = at.join("bases").join(name).join("kustomization.yaml");
    let lines = fs::read_to_string(&base)?;
    let version = lines.split("/releases/download/").nth(1).and_then(|rest| rest.split('/').next());
    let version = version.ok_or("a version")?.to_owned();
    let lines = lines.lines().map(|line| match line {
        _ if line.ends_with(".crds.yaml") => format!("- ../../{name}/crd"),
        _ if line.ends_with(".deployment.yaml") => format!("- ../../{name}/manager"),
        _ => line.to_owned(),
    });
    fs::write(&base, lines.collect::<Vec<_>>().join("\n"))?;
    Ok(version)
}

pub(super) fn sorted(objects: Vec<Value>) -> BTreeMap<Identity, Value> {
    objects.into_iter().map(|object| (Identity::of(&object), object)).collect()
}

fn folder(release: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install").join(release)
}

/// Returns `inputs.json` of a release, or null before the release is written.
fn committed(release: &str) -> Value {
    let text = fs::read_to_string(folder(release).join("inputs.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

#[test]
#[ignore = "needs Go modules and the lab's kubectl: tasks/test"]
fn releases_equal_what_kustomize_assembles_from_their_modules() -> Test {
    let mut releases: Vec<_> = Version::ALL.iter().map(ToString::to_string).collect();
    if let Some(updated) = updated() {
        releases = vec![updated];
    }
    for release in releases {
        let inputs = Inputs::of(&release)?;
        inputs.check(&release)?;
        for (name, text) in inputs.files(&release)? {
            let file = folder(&release).join(&name);
            if updated().is_some() {
                fs::create_dir_all(folder(&release))?;
                fs::write(&file, &text)?;
            }
            assert!(fs::read_to_string(&file)? == text, "{release}/{name} differs");
        }
    }
    Ok(())
}

#[test]
fn each_digest_of_a_release_has_two_origins_or_a_verified_signature() {
    for version in Version::ALL {
        let inputs = committed(&version.to_string());
        let is_verified =
            inputs["signatures"].as_str().is_some_and(|text| text.starts_with("verified"));
        for component in Component::ALL {
            let sources = &inputs["images"][component.as_str()]["sources"];
            let sources: Vec<_> = sources.as_array().into_iter().flatten().collect();
            assert!(sources.len() >= 2 || is_verified, "{component} {version}: {sources:?}");
        }
    }
}

#[test]
fn each_folder_of_a_release_is_a_version_of_the_document() -> Test {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder("."))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && name.starts_with(|first: char| first.is_ascii_digit()) {
            folders.push(name);
        }
    }
    folders.sort();
    assert_eq!(folders, Version::ALL.map(|version| version.to_string()));
    Ok(())
}
