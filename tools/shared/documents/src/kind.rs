//! Recognises documents of our six kinds, and misspelt ones.

use serde_json::Value;

use crate::suggestion;

/// `apiVersion` of every document.
pub(crate) const VERSION: &str = "holistic/v1alpha1";

/// API group of every document.
const GROUP: &str = "holistic";

/// The kinds that the programs read.
pub(crate) const KINDS: [&str; 6] =
    ["Project", "Repository", "Artifact", "Cluster", "Delivery", "Drain"];

/// Returns the program that applies documents of `kind`. No program applies a Project.
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

/// Returns the folder, below `tools`, of the crate that has the types of `kind`.
pub(crate) fn folder(kind: &str) -> &'static str {
    owner(kind).unwrap_or("shared/contract")
}

/// Most letters of an API group that may be wrong, missing or surplus.
const TYPOS_MAX: usize = 2;

/// Whether `value` is a document of ours, even if its `apiVersion` or `kind` is misspelt. Other
/// documents pass through a stream unread, so without this a typo would make a document of ours
/// disappear silently.
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

/// Whether the text of a file may contain a document for which [`is_meant_for_us`] holds. This check is
/// cheaper than parsing, and works on files that are not valid YAML.
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
    // One line of JSON or of YAML in braces may have several keys.
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

/// Returns the error in the `apiVersion` or `kind` of `value`: JSON pointer of the field, and message.
/// The message does not quote the field, whose value may be a misplaced secret. `owned` are the kinds
/// that the program reads.
pub(crate) fn mistake(value: &Value, owned: &[&str]) -> Option<(&'static str, String)> {
    if !is_meant_for_us(value) {
        return None;
    }
    if value["apiVersion"] != VERSION {
        return Some(("/apiVersion", format!("unknown version: write {VERSION}")));
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    if KINDS.iter().chain(owned).any(|known| *known == kind) {
        return None;
    }
    let message = match suggestion::nearest(kind, KINDS) {
        Some(known) => format!("unknown kind: did you mean {known}?"),
        None => format!("unknown kind: the kinds are {}", KINDS.join(", ")),
    };
    Some(("/kind", message))
}

/// Whether the API group of `version` is ours, with at most [`TYPOS_MAX`] typos.
fn is_group(version: &str) -> bool {
    let group = version.split('/').next().unwrap_or_default();
    // The length limits the work on a long text.
    group.len() <= 2 * GROUP.len()
        && suggestion::distance(&group.to_lowercase(), GROUP) <= TYPOS_MAX
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error_in(version: &str, kind: &str) -> Option<String> {
        let value = json!({"apiVersion": version, "kind": kind});
        let written = format!("apiVersion: {version}\nkind: {kind}\n");
        let found =
            mistake(&value, &["Fleet"]).map(|(field, message)| format!("{field}: {message}"));
        assert!(
            found.is_none() || may_be_meant_for_us(&written),
            "the check of a folder finds the file, too: {written}"
        );
        found
    }

    // hazard: `kind: Respository` passes through all programs with exit 0.
    // class: Unread input looks like success.
    // members: case, version, missing version
    // now: exit 2, with the kind that was meant
    #[test]
    fn typo_in_kind_is_an_error_that_suggests_the_right_kind() {
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
            let expected = format!("/kind: unknown kind: did you mean {kind}?");
            assert_eq!(error_in(VERSION, typo), Some(expected), "{typo}");
        }
        for typo in ["", "hunter2", "Deployment", "PersistentVolumeClaim", "Ω"] {
            let expected = format!("/kind: unknown kind: the kinds are {}", KINDS.join(", "));
            assert_eq!(error_in(VERSION, typo), Some(expected), "{typo}");
        }
    }

    #[test]
    fn typo_in_api_version_is_an_error() {
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
            let error = error_in(version, "Repository").unwrap_or_default();
            assert!(error.starts_with("/apiVersion: unknown version"), "{version}: {error}");
        }
    }

    #[test]
    fn document_of_another_api_group_is_accepted_unread() {
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
            assert_eq!(error_in(version, kind), None, "{version} {kind}");
        }
        assert_eq!(error_in(VERSION, "Fleet"), None, "the program reads this kind");
        assert_eq!(error_in(VERSION, "Drain"), None);
    }

    #[test]
    fn file_that_may_be_ours_is_found_in_every_notation() {
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
