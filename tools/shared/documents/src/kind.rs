//! Which documents are ours: the six kinds, and what is written almost like one of them.

use serde_json::Value;

/// The version of every document.
pub(crate) const VERSION: &str = "holistic/v1alpha1";

/// The group of every document.
const GROUP: &str = "holistic";

/// Every kind that one of the programs reads.
pub(crate) const KINDS: [&str; 6] =
    ["Project", "Repository", "Artifact", "Cluster", "Delivery", "Drain"];

/// The program that brings about documents of `kind`; nothing brings about a Project.
pub(crate) fn owner(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Repository" => "vcs-bootstrap",
        "Artifact" => "artifact-attest",
        "Cluster" => "talos-provision",
        "Delivery" => "flux-seed",
        "Drain" => "data-drain",
        _ => return None,
    })
}

/// How many letters of a group or kind may be wrong, missing or too many.
const TYPOS_MAX: usize = 2;

/// Whether `value` is a document of ours, correctly written or not. Documents of others pass through
/// a stream unread, so a typo in `apiVersion` must not make one of ours look like theirs.
pub(crate) fn is_meant_for_us(value: &Value) -> bool {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if is_group(version) {
        return true;
    }
    let is_kind = KINDS.iter().any(|ours| ours.eq_ignore_ascii_case(kind));
    let has_no_group = !version.contains('/') && version.contains("alpha");
    is_kind && (version.is_empty() || has_no_group || version.to_lowercase().contains(GROUP))
}

/// Whether the text of a file may contain a document for which [`is_meant_for_us`] holds. It is
/// cheaper than parsing, and works on files that are no YAML.
pub(crate) fn may_be_meant_for_us(text: &str) -> bool {
    let value_of = |line: &str, key: &str| {
        let line = line.trim_start_matches(['{', '-', ' ', '\t', '"', '\'', '\u{feff}']);
        let head = line.get(..key.len())?;
        let rest = head.eq_ignore_ascii_case(key).then(|| &line[key.len()..])?;
        let value = rest.trim_start_matches(['"', '\'', ' ']).strip_prefix(':')?;
        let value = value.trim_start_matches([' ', '"', '\'']);
        let end = value.find([' ', '"', '\'', ',', '}', '#', '\r']).unwrap_or(value.len());
        Some(value[..end].to_owned())
    };
    // One line of JSON, or of YAML in braces, has several keys.
    let lines = text.lines().flat_map(|line| line.split_inclusive([',', '{']));
    let (mut ours, mut kind, mut version) = (false, false, false);
    for line in lines {
        if let Some(value) = value_of(line, "apiVersion") {
            version = true;
            ours |= is_group(&value) || value.to_lowercase().contains(GROUP);
            ours |= !value.contains('/') && value.contains("alpha");
        } else if let Some(value) = value_of(line, "kind") {
            kind |= KINDS.iter().any(|ours| ours.eq_ignore_ascii_case(&value));
        }
    }
    ours || (kind && !version)
}

/// What is wrong with the `apiVersion` and `kind` of `value`: the field, and the message. The
/// message does not quote the value, which may be a secret in the wrong place. `owned` are the kinds
/// that the program reads.
pub(crate) fn mistake(value: &Value, owned: &[&str]) -> Option<(&'static str, String)> {
    if !is_meant_for_us(value) {
        return None;
    }
    if value["apiVersion"] != VERSION {
        return Some(("/apiVersion", format!("not a version that is known here: write {VERSION}")));
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    if KINDS.iter().chain(owned).any(|known| *known == kind) {
        return None;
    }
    let near =
        KINDS.iter().map(|known| (distance(&kind.to_lowercase(), &known.to_lowercase()), known));
    let message = match near.min() {
        Some((typos, known)) if typos <= known.len() / 2 => {
            format!("no such kind: did you mean {known}?")
        }
        _ => format!("no such kind: it is one of {}", KINDS.join(", ")),
    };
    Some(("/kind", message))
}

/// Whether the group of `version` is ours, or almost.
fn is_group(version: &str) -> bool {
    let group = version.split('/').next().unwrap_or_default().to_lowercase();
    distance(&group, GROUP) <= TYPOS_MAX
}

/// The least number of letters to insert, remove or replace to make `left` into `right`.
fn distance(left: &str, right: &str) -> usize {
    if left.len().abs_diff(right.len()) > right.len() {
        return usize::MAX; // a long text is not worth the comparison
    }
    let mut above: Vec<usize> = (0..=right.chars().count()).collect();
    for (row, l) in left.chars().enumerate() {
        let mut diagonal = above[0];
        above[0] = row + 1;
        for (column, r) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = above[column + 1];
            above[column + 1] = replaced.min(diagonal + 1).min(above[column] + 1);
        }
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(version: &str, kind: &str) -> Option<String> {
        let value = json!({"apiVersion": version, "kind": kind});
        let written = format!("apiVersion: {version}\nkind: {kind}\n");
        let found =
            mistake(&value, &["Fleet"]).map(|(field, message)| format!("{field}: {message}"));
        assert!(
            found.is_none() || may_be_meant_for_us(&written),
            "a folder shows it, too: {written}"
        );
        found
    }

    // hazard: `kind: Respository` passes through all programs with exit 0.
    // class: Unread input looks like success.
    // members: case, version, missing version
    // now: exit 2, with the kind that was meant
    #[test]
    fn a_typo_in_a_kind_is_a_mistake_that_names_the_kind_that_was_meant() {
        for (typo, kind) in [
            ("Respository", "Repository"),
            ("repository", "Repository"),
            ("REPOSITORY", "Repository"),
            ("Repositories", "Repository"),
            ("Projekt", "Project"),
            ("Artefact", "Artifact"),
            ("Clusters", "Cluster"),
            ("Delivry", "Delivery"),
            ("drian", "Drain"),
        ] {
            let expected = format!("/kind: no such kind: did you mean {kind}?");
            assert_eq!(told(VERSION, typo), Some(expected), "{typo}");
        }
        for typo in ["", "hunter2", "Deployment", "PersistentVolumeClaim", "Ω"] {
            let expected = format!("/kind: no such kind: it is one of {}", KINDS.join(", "));
            assert_eq!(told(VERSION, typo), Some(expected), "{typo}");
        }
    }

    #[test]
    fn a_typo_in_an_api_version_is_a_mistake() {
        for version in [
            "holistic/v1",
            "holistic/v1beta1",
            "holistic/v1alpha2",
            "holistic/",
            "holistic",
            "holistc/v1alpha1",
            "Holistic/v1alpha1",
            "hollistic/v1alpha1",
            "hoilstic/v1alpha1",
            "v1alpha1",
            "wholistic.io/v1alpha1",
            "v1alpha1/holistic",
        ] {
            let told = told(version, "Repository").unwrap_or_default();
            assert!(told.starts_with("/apiVersion: not a version"), "{version}: {told}");
        }
    }

    #[test]
    fn a_document_of_others_is_none_of_ours() {
        for (version, kind) in [
            ("v1", "Pod"),
            ("v1", "Project"),
            ("apps/v1", "Deployment"),
            ("cluster.x-k8s.io/v1beta1", "Cluster"),
            ("project.openshift.io/v1", "Project"),
            ("source.toolkit.fluxcd.io/v1", "OCIRepository"),
            ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
            ("goharbor.io/v1alpha1", "Project"),
        ] {
            assert_eq!(told(version, kind), None, "{version} {kind}");
        }
        assert_eq!(told(VERSION, "Fleet"), None, "the program reads it");
        assert_eq!(told(VERSION, "Drain"), None);
    }

    #[test]
    fn a_file_that_may_be_ours_is_found_however_it_is_written() {
        for ours in [
            "\u{feff}apiVersion: holistic/v1alpha1",
            "{\"kind\":\"Project\",\"apiVersion\":\"holistic/v1alpha1\"}",
            "{apiVersion: holistic/v1alpha1, kind: Project}",
            "'apiVersion': 'holistc/v1alpha1'\r\n",
            "apiversion: holistic/v1alpha1",
            "kind: Repository\nmetadata: {name: a}",
        ] {
            assert!(may_be_meant_for_us(ours), "{ours}");
        }
        for theirs in [
            "apiVersion: v1\nkind: Project",
            "image: ghcr.io/holistic/greeter",
            "# apiVersion: holistic/v1alpha1",
            "{{ not: yaml: at all",
            "",
        ] {
            assert!(!may_be_meant_for_us(theirs), "{theirs}");
        }
    }
}
