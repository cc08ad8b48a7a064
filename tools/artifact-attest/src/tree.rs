//! Selects the files of a folder that are published for Flux, and reports files that cannot be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::git;

/// Largest file of manifests, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// File names of a Kustomization, in the order of kustomize.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Contents of a folder, by path.
pub(crate) type Tree = BTreeMap<String, Node>;
/// Contents of files, by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Object at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    File(Vec<u8>),
    Link,
    Submodule,
    TooLarge,
}

/// A path that a Kustomization names, with its position.
struct Named {
    /// Position, for example `deployments/kustomization.yaml:7`.
    place: String,
    /// Path as written in the Kustomization.
    text: String,
    /// Path relative to the published folder; `None` if it is outside.
    path: Option<String>,
}

/// Returns the files of `tree` that are published. Hidden files, and files in hidden folders, are
/// left out unless a Kustomization names them.
///
/// The error lists every file that cannot be published, and every path that a Kustomization names
/// and Flux could not read, each with its position.
pub(crate) fn published(tree: &Tree) -> Result<Files, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut named = BTreeSet::new();
    for (path, node) in tree {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Node::File(content) = node
            && KUSTOMIZATIONS.contains(&name)
        {
            match read(path, folder, content) {
                Ok(all) => all.into_iter().for_each(|found| match missing(tree, &found) {
                    None => named.extend(found.path),
                    Some(why) => mistakes.push(format!("{}: `{}` {why}", found.place, found.text)),
                }),
                Err(why) => mistakes.push(format!("{path}: {why}")),
            }
        }
    }
    let is_named = |path: &str| {
        let within = |named: &String| {
            path.strip_prefix(named.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        named.contains(path) || named.iter().any(within)
    };
    let mut files = Files::new();
    for (path, node) in tree {
        let is_hidden = path.split('/').any(|name| name.starts_with('.'));
        if is_hidden && !is_named(path) {
            continue;
        }
        match node {
            Node::File(content) if git::is_lfs_pointer(content) => mistakes.push(format!(
                "{path}: a pointer of Git LFS, not the file itself: commit the file"
            )),
            Node::File(content) => {
                files.insert(path.clone(), content.clone());
            }
            Node::Link => mistakes.push(format!(
                "{path}: a symbolic link, which Flux does not unpack: commit the file itself"
            )),
            Node::Submodule => mistakes.push(format!(
                "{path}: a submodule, whose files are in another repository: commit the files"
            )),
            Node::TooLarge => {
                mistakes.push(format!("{path}: larger than {FILE_BYTES_MAX} bytes"));
            }
        }
    }
    if mistakes.is_empty() { Ok(files) } else { Err(mistakes) }
}

/// Returns the reason why Flux could not read the path `named`.
fn missing(tree: &Tree, named: &Named) -> Option<&'static str> {
    let Some(path) = &named.path else {
        return Some("is outside of the published folder");
    };
    if tree.contains_key(path) {
        return None; // the file's own errors are reported with the file
    }
    let within = if path.is_empty() { String::new() } else { format!("{path}/") };
    if KUSTOMIZATIONS.iter().any(|name| tree.contains_key(&format!("{within}{name}"))) {
        return None;
    }
    let is_folder = tree.keys().any(|known| known.starts_with(&within));
    Some(if is_folder {
        "is a folder without a kustomization.yaml"
    } else {
        "is not a file of the commit: content that the cluster fetches from elsewhere is not attested"
    })
}

/// Returns every path that the Kustomization at `path` names.
fn read(path: &str, folder: &str, content: &[u8]) -> Result<Vec<Named>, String> {
    let text = str::from_utf8(content).map_err(|_| "not UTF-8".to_owned())?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| format!("not YAML: {error}"))?;
    let mut named = Vec::new();
    for document in &documents {
        for written in paths(document) {
            let line = text.lines().position(|line| line.contains(&written));
            let line = line.map_or(String::new(), |line| format!(":{}", line + 1));
            let resolved = resolved(folder, &written);
            named.push(Named { place: format!("{path}{line}"), path: resolved, text: written });
        }
    }
    Ok(named)
}

/// Returns every path in a Kustomization (kustomize v5, `api/types/kustomization.go`, and the
/// generators, patches, replacements and charts that it refers to).
fn paths(document: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let texts = |value: &Value| {
        list(value).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut paths = Vec::new();
    for field in [
        "resources",
        "bases",
        "components",
        "crds",
        "configurations",
        "generators",
        "transformers",
        "validators",
        "patchesStrategicMerge",
    ] {
        paths.extend(texts(&document[field]));
    }
    for field in ["patches", "patchesJson6902", "replacements"] {
        paths.extend(
            list(&document[field])
                .iter()
                .filter_map(|item| Some(item["path"].as_str()?.to_owned())),
        );
    }
    for field in ["configMapGenerator", "secretGenerator"] {
        for generator in list(&document[field]) {
            // Entries are `key=path`, or a path whose last part becomes the key.
            let files = texts(&generator["files"]);
            let path = |file: &String| {
                file.split_once('=').map_or(file.clone(), |(_, path)| path.to_owned())
            };
            paths.extend(files.iter().map(path));
            paths.extend(texts(&generator["envs"]));
            paths.extend(generator["env"].as_str().map(str::to_owned));
        }
    }
    for chart in list(&document["helmCharts"]) {
        paths.extend(chart["valuesFile"].as_str().map(str::to_owned));
        paths.extend(texts(&chart["additionalValuesFiles"]));
    }
    for chart in list(&document["helmChartInflationGenerator"]) {
        paths.extend(chart["values"].as_str().map(str::to_owned));
    }
    paths.extend(document["openapi"]["path"].as_str().map(str::to_owned));
    // Inline patches and generators have several lines.
    paths.retain(|path| !path.contains('\n'));
    paths
}

/// Resolves `path` against `folder`, without dots; `None` if it leads outside.
fn resolved(folder: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains("://") {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
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

/// Whether the file's name is that of a YAML manifest or a Kustomization.
pub(crate) fn is_yaml(path: &str) -> bool {
    let path = Path::new(path);
    path.file_name().is_some_and(|name| name == "Kustomization")
        || path.extension().is_some_and(|end| end == "yaml" || end == "yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let node = |text: &str| match text {
            "link" => Node::Link,
            "submodule" => Node::Submodule,
            text => Node::File(text.as_bytes().to_vec()),
        };
        files.iter().map(|(path, text)| ((*path).to_owned(), node(text))).collect()
    }

    /// One Kustomization for each field that can name a file; with the file present, and without.
    #[test]
    fn a_file_that_a_kustomization_names_is_published_or_reported_with_its_position() {
        for (written, path) in [
            ("resources: [a/x.yaml]", "a/x.yaml"),
            ("resources:\n- ./a/../x.yaml", "x.yaml"),
            ("resources: [base]", "base/kustomization.yaml"),
            ("components: [c]", "c/Kustomization"),
            ("bases: [b]", "b/kustomization.yml"),
            ("crds: [crd.json]", "crd.json"),
            ("configurations: [.hidden/config]", ".hidden/config"),
            ("generators: [g.yaml]", "g.yaml"),
            ("transformers: [t.yaml]", "t.yaml"),
            ("validators: [v.yaml]", "v.yaml"),
            ("patchesStrategicMerge: [p.txt]", "p.txt"),
            ("patches: [{path: p.json, target: {kind: Pod}}]", "p.json"),
            ("patchesJson6902: [{path: p.json}]", "p.json"),
            ("replacements: [{path: r.yaml}]", "r.yaml"),
            ("openapi: {path: schema.json}", "schema.json"),
            ("configMapGenerator: [{name: a, files: [config.toml]}]", "config.toml"),
            ("configMapGenerator: [{name: a, files: [key=conf/x.toml]}]", "conf/x.toml"),
            ("configMapGenerator: [{name: a, envs: [.env]}]", ".env"),
            ("configMapGenerator: [{name: a, env: one.env}]", "one.env"),
            ("secretGenerator: [{name: a, files: [tls.key]}]", "tls.key"),
            ("helmCharts: [{name: a, valuesFile: values.yaml}]", "values.yaml"),
            ("helmCharts: [{name: a, additionalValuesFiles: [more.yaml]}]", "more.yaml"),
        ] {
            let files = published(&tree(&[("kustomization.yaml", written), (path, "{}")]));
            assert!(
                files.as_ref().is_ok_and(|files| files.contains_key(path)),
                "{written}: {files:?}"
            );
            let mistakes = published(&tree(&[("kustomization.yaml", written)]));
            let mistakes = mistakes.expect_err(written);
            assert!(mistakes[0].starts_with("kustomization.yaml:"), "{mistakes:?}");
        }
    }

    #[test]
    fn a_path_outside_the_folder_is_reported_with_its_position() {
        for written in [
            "resources: [../base]",
            "resources: [https://example.org/install.yaml]",
            "resources: ['github.com/a/b//deploy?ref=v1']",
            "resources: ['git@github.com:a/b']",
            "resources: [/etc/passwd]",
            "resources: [folder]",
            "configMapGenerator: [{files: [a=../../secret]}]",
        ] {
            let tree = tree(&[("kustomization.yaml", written), ("folder/x.yaml", "{}")]);
            let mistakes = published(&tree).expect_err(written);
            assert!(
                mistakes.len() == 1 && mistakes[0].starts_with("kustomization.yaml:1: "),
                "{mistakes:?}"
            );
        }
    }

    #[test]
    fn links_submodules_and_pointers_are_errors_and_hidden_files_are_skipped() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        let odd = tree(&[("a.yaml", "link"), ("sub", "submodule"), ("b.yaml", pointer)]);
        assert_eq!(published(&odd).expect_err("refused").len(), 3);
        let files =
            tree(&[(".sops.yaml", "{}"), (".git/x", "link"), ("a.yaml", "{}"), ("b.toml", "x")]);
        let files = published(&files).expect("right");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.yaml", "b.toml"]);
    }

    #[test]
    fn an_inline_patch_names_no_file() {
        let inline = "patchesStrategicMerge:\n- |-\n  kind: Pod\n  metadata: {name: a}\n";
        assert!(published(&tree(&[("kustomization.yaml", inline)])).is_ok());
    }
}
