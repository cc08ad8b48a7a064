//! Computes the objects that kustomize-controller would build from an artifact. This file implements
//! as much of kustomize as is needed to know which objects exist. An unsupported feature is an error
//! instead of an empty build, because a missing object would count as pruned.
//!
//! The rules are described in <https://fluxcd.io/flux/components/kustomize/kustomizations/#path> and
//! <https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/>.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::archive::Files;
use crate::kstatus::text;
use crate::object::Identity;

/// File names that kustomize recognises (`konfig.RecognizedKustomizationFileNames`).
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Maximum depth of kustomizations that refer to one another.
const DEPTH_MAX: usize = 16;

/// Fields that change neither the set of objects nor their names.
const HARMLESS: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "labels",
    "commonLabels",
    "commonAnnotations",
    "images",
    "generatorOptions",
    "buildMetadata",
    "crds",
    "openapi",
    "sortOptions",
];
/// Fields that change values inside the objects.
const INEXACT: [&str; 4] = ["patches", "patchesStrategicMerge", "patchesJson6902", "replicas"];

/// Result of one build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Build {
    pub(crate) objects: Vec<Value>,
    /// Whether patches or substitutions may change values in `objects`.
    pub(crate) inexact: bool,
    /// Kinds whose objects get generated names. The names end in a hash that this file does not
    /// compute.
    generated: BTreeSet<&'static str>,
}

impl Build {
    /// Returns the object that Flux would apply as `id`.
    pub(crate) fn find(&self, id: &Identity) -> Option<&Value> {
        self.objects.iter().find(|object| {
            let built = Identity::of(object);
            built.kind == id.kind
                && built.name == id.name
                && built.group() == id.group()
                && match &id.namespace {
                    None => true,
                    Some(namespace) => built.namespace.as_deref().unwrap_or("default") == namespace,
                }
        })
    }

    /// Whether a generator may create `id`, whose name would be `NAME-HASH`.
    pub(crate) fn may_generate(&self, id: &Identity) -> bool {
        id.group().is_empty() && self.generated.contains(id.kind.as_str())
    }
}

/// Builds the folder of a Flux Kustomization and applies the changes that its `spec` declares.
pub(crate) fn of_kustomization(files: &Files, spec: &Value) -> Result<Build, String> {
    let mut build = build(files, text(spec, "path"))?;
    for field in ["components", "namePrefix", "nameSuffix"] {
        if is_set(&spec[field]) {
            return Err(format!("the Kustomization has spec.{field}"));
        }
    }
    if is_set(&spec["patches"]) {
        inexact(&mut build, &spec["patches"].to_string())?;
    }
    if is_set(&spec["postBuild"]) {
        build.inexact = true;
        if build.objects.iter().any(|object| Identity::of(object).to_string().contains("${")) {
            return Err("spec.postBuild substitutes names".to_owned());
        }
    }
    if let Some(namespace) = spec["targetNamespace"].as_str() {
        build.objects.iter_mut().for_each(|object| move_to(object, namespace));
    }
    Ok(build)
}

/// Builds the objects below `path`.
fn build(files: &Files, path: &str) -> Result<Build, String> {
    let folder = clean(path).ok_or_else(|| format!("the path {path} leaves the artifact"))?;
    if files.keys().any(|name| name.rsplit('/').next() == Some(".sourceignore")) {
        return Err("the artifact has a .sourceignore".to_owned());
    }
    let mut build = Build::default();
    if kustomization(files, &folder).is_some() {
        self::folder(files, &folder, 0, &mut build)?;
    } else {
        scan(files, &folder, &mut build)?;
    }
    let is_local = |object: &Value| {
        let annotations = &object["metadata"]["annotations"];
        is_set(&annotations["config.kubernetes.io/local-config"])
            && annotations["config.kubernetes.io/local-config"] != "false"
    };
    build.objects.retain(|object| !is_local(object));
    Ok(build)
}

/// Builds a folder that has no kustomization. kustomize-controller generates one that names every
/// YAML file and every folder with its own kustomization
/// (<https://github.com/fluxcd/pkg/blob/main/kustomize/kustomize_generator.go>, `scanManifests`).
fn scan(files: &Files, folder: &str, build: &mut Build) -> Result<(), String> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut folders = BTreeSet::new();
    for name in files.keys().filter_map(|name| name.strip_prefix(&prefix)) {
        let parts: Vec<_> = name.split('/').collect();
        let above = (1..parts.len()).map(|end| format!("{prefix}{}", parts[..end].join("/")));
        let owner = above.into_iter().find(|above| kustomization(files, above).is_some());
        match owner {
            Some(owner) => {
                folders.insert(owner);
            }
            None if [".yaml", ".yml"].iter().any(|end| name.ends_with(end)) => {
                objects(files, &format!("{prefix}{name}"), build)?;
            }
            None => {}
        }
    }
    folders.iter().try_for_each(|folder| self::folder(files, folder, 0, build))
}

/// Builds a folder that has a kustomization.
fn folder(files: &Files, folder: &str, depth: usize, into: &mut Build) -> Result<(), String> {
    let name = kustomization(files, folder)
        .ok_or_else(|| format!("{folder} has no kustomization.yaml"))?;
    if depth > DEPTH_MAX {
        return Err(format!(
            "{name}: kustomizations refer to one another more than {DEPTH_MAX} levels deep"
        ));
    }
    let spec = documents(files, &name)?.pop().unwrap_or_default();
    let mut build = Build::default();
    for (field, value) in spec.as_object().into_iter().flatten() {
        match field.as_str() {
            field if HARMLESS.contains(&field) => {}
            "resources" | "bases" => {
                for resource in value.as_array().into_iter().flatten() {
                    let resource = resource.as_str().unwrap_or_default();
                    let path = clean(&format!("{folder}/{resource}"))
                        .filter(|_| !resource.contains("://") && !resource.is_empty())
                        .ok_or_else(|| format!("{name} refers to {resource}"))?;
                    if files.contains_key(&path) {
                        objects(files, &path, &mut build)?;
                    } else {
                        self::folder(files, &path, depth + 1, &mut build)?;
                    }
                }
            }
            "namespace" => {}
            "configMapGenerator" if is_set(value) => {
                build.generated.insert("ConfigMap");
            }
            "secretGenerator" if is_set(value) => {
                build.generated.insert("Secret");
            }
            field if INEXACT.contains(&field) => {
                let mut patches = value.to_string();
                // A patch may be a file.
                for file in value.as_array().into_iter().flatten() {
                    let path = file.as_str().or_else(|| file["path"].as_str());
                    let path = path.and_then(|path| clean(&format!("{folder}/{path}")));
                    let file = path.and_then(|path| files.get(&path));
                    patches +=
                        &file.map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
                }
                inexact(&mut build, &patches)?;
            }
            _ if !is_set(value) => {}
            field => return Err(format!("{name} has the field {field}")),
        }
    }
    if let Some(namespace) = spec["namespace"].as_str() {
        build.objects.iter_mut().for_each(|object| move_to(object, namespace));
    }
    into.objects.append(&mut build.objects);
    into.inexact |= build.inexact;
    into.generated.append(&mut build.generated);
    Ok(())
}

fn inexact(build: &mut Build, patches: &str) -> Result<(), String> {
    for word in ["$patch", "allowNameChange", "allowKindChange", "/metadata/name"] {
        if patches.contains(word) {
            return Err(format!("a patch contains {word}"));
        }
    }
    build.inexact = true;
    Ok(())
}

/// Sets the namespace of `object`. A Namespace is renamed, as kustomize's own transformer does.
fn move_to(object: &mut Value, namespace: &str) {
    if object["kind"] == "Namespace" && object["apiVersion"] == "v1" {
        object["metadata"]["name"] = namespace.into();
    } else {
        object["metadata"]["namespace"] = namespace.into();
    }
}

fn objects(files: &Files, name: &str, build: &mut Build) -> Result<(), String> {
    for document in documents(files, name)? {
        let is_list = text(&document, "kind").ends_with("List");
        let items = document["items"].as_array().filter(|_| is_list).cloned();
        for object in items.unwrap_or_else(|| vec![document]) {
            let id = Identity::of(&object);
            // YAML 1.1 parses `n` as a boolean, and kustomize may not: accept only an unambiguous
            // namespace.
            let namespace = &object["metadata"]["namespace"];
            let is_valid = namespace.is_string() || namespace.is_null();
            if id.kind.is_empty() || id.name.is_empty() || id.api_version.is_empty() || !is_valid {
                return Err(format!("{name} contains a document that is not a Kubernetes object"));
            }
            build.objects.push(object);
        }
    }
    Ok(())
}

fn documents(files: &Files, name: &str) -> Result<Vec<Value>, String> {
    let bytes = files.get(name).ok_or_else(|| format!("{name} is not in the artifact"))?;
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8"))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|_| format!("{name} is not valid YAML"))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn kustomization(files: &Files, folder: &str) -> Option<String> {
    let at = |name: &&str| {
        if folder.is_empty() { (*name).to_owned() } else { format!("{folder}/{name}") }
    };
    NAMES.iter().map(at).find(|path| files.contains_key(path))
}

/// Resolves `.` and `..` in `path`. Returns `None` if the path leaves the artifact.
fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a field has a value that is not empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
