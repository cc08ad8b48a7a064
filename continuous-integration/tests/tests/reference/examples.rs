//! Documents from which the pages take their examples, so that every example is valid.

use serde_json::Value;

use crate::{Test, documents, yaml_files};
use repository_tests::root;

/// Returns this repository's own documents, the documents of the templates, and those of `examples.yaml`,
/// which has the fields that no other document uses.
pub(crate) fn all() -> Test<Vec<Value>> {
    let mut files = Vec::new();
    for folder in ["project", "sources", "machines", "deployments", "templates", "tools/images"] {
        files.extend(yaml_files(&root().join(folder))?);
    }
    files.push(root().join("continuous-integration/tests/tests/reference/examples.yaml"));
    let mut all = Vec::new();
    for file in files {
        all.extend(documents(&file)?);
    }
    Ok(all)
}

/// Returns the values at `path` in the documents of `kind`. `[]` stands for each item of a list, and `<>` for
/// each value of a map.
pub(crate) fn at(examples: &[Value], kind: &str, path: &[String]) -> Vec<Value> {
    let of_kind = examples.iter().filter(|document| document["kind"] == kind);
    path.iter().fold(of_kind.cloned().collect(), |values: Vec<Value>, step| {
        let children = values.into_iter().flat_map(|value| match (step.as_str(), value) {
            ("[]", Value::Array(items)) => items,
            ("<>", Value::Object(entries)) => entries.into_iter().map(|(_, value)| value).collect(),
            (name, value) => value.get(name).cloned().into_iter().collect(),
        });
        children.collect()
    })
}
