//! The text of a configuration.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use crate::value::{Address, Input, Resource, Value};

/// First version of `OpenTofu` with import blocks: <https://opentofu.org/docs/v1.6/language/import/>.
const REQUIRED_VERSION: &str = ">= 1.6.0";

/// Provider of the resources of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Local name, for example `hcloud`.
    pub name: &'static str,
    /// Address in the registry, for example `hetznercloud/hcloud`.
    pub source: &'static str,
    /// Accepted versions, for example `~> 1.68`.
    pub version: &'static str,
    /// Arguments of the provider. Credentials are none of them, because the provider reads them from the
    /// environment.
    pub arguments: crate::Arguments,
}

/// A configuration in the JSON syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Sentence at the top of the file.
    pub note: String,
    /// Provider of all resources.
    pub provider: Provider,
    /// Resources, in the order of their import blocks.
    pub resources: Vec<Resource>,
}

impl Configuration {
    /// Returns the text of a `.tf.json` file.
    #[must_use]
    pub fn render(&self) -> String {
        let labels = Labels::of(&self.resources);
        let (mut resources, mut imports) = (Map::new(), Vec::new());
        for resource in &self.resources {
            let Address { kind, .. } = &resource.address;
            let of_kind = resources.entry(*kind).or_insert_with(|| json!({}));
            of_kind[labels.label(&resource.address)] = labels.body(resource);
            if let Some(id) = &resource.import {
                imports.push(json!({"to": labels.address(&resource.address), "id": literal(id)}));
            }
        }
        let Provider { name, source, version, arguments } = &self.provider;
        let mut root = Map::new();
        root.insert("//".to_owned(), json!(self.note));
        root.insert(
            "terraform".to_owned(),
            json!({
                "required_version": REQUIRED_VERSION,
                "required_providers": {*name: {"source": source, "version": version}},
            }),
        );
        root.insert("provider".to_owned(), json!({*name: labels.arguments(arguments)}));
        let variables = variables(&self.resources);
        if !variables.is_empty() {
            root.insert("variable".to_owned(), Json::Object(variables));
        }
        if !resources.is_empty() {
            root.insert("resource".to_owned(), Json::Object(resources));
        }
        if !imports.is_empty() {
            root.insert("import".to_owned(), Json::Array(imports));
        }
        format!("{:#}\n", Json::Object(root))
    }
}

/// Returns the input variables for the unknown values of `resources`.
fn variables(resources: &[Resource]) -> Map<String, Json> {
    fn collect(value: &Value, variables: &mut Map<String, Json>) {
        match value {
            Value::Input(Input { name, description, default, is_secret }) => {
                let mut declared = json!({"type": "string", "description": description});
                if let Some(default) = default {
                    declared["default"] = json!(default);
                }
                if *is_secret {
                    declared["sensitive"] = json!(true);
                }
                variables.insert(label(name), declared);
            }
            Value::List(values) => values.iter().for_each(|value| collect(value, variables)),
            Value::Map(values) => values.iter().for_each(|(_, value)| collect(value, variables)),
            Value::Text(_) | Value::Number(_) | Value::Flag(_) | Value::Reference(..) => {}
        }
    }
    let mut variables = Map::new();
    let values = resources.iter().flat_map(|resource| &resource.arguments);
    values.for_each(|(_, value)| collect(value, &mut variables));
    variables
}

/// Labels of all resources. Two names of one type never share a label.
struct Labels<'a>(BTreeMap<&'a Address, String>);

impl<'a> Labels<'a> {
    fn of(resources: &'a [Resource]) -> Self {
        let (mut labels, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for Resource { address, .. } in resources {
            let base = label(&address.name);
            let numbered = (2_u32..).map(|number| format!("{base}_{number}"));
            let mut candidates = [base.clone()].into_iter().chain(numbered);
            // GitHub ignores the case of a name, and OpenTofu does not.
            let free = candidates.find(|label| taken.insert((address.kind, label.clone())));
            labels.insert(address, free.unwrap_or(base));
        }
        Self(labels)
    }

    /// Returns the label of a resource. A resource that the configuration lacks gets the label that it
    /// would have, so that `tofu validate` reports the reference.
    fn label(&self, address: &Address) -> String {
        self.0.get(address).cloned().unwrap_or_else(|| label(&address.name))
    }

    fn address(&self, address: &Address) -> String {
        format!("{}.{}", address.kind, self.label(address))
    }

    fn body(&self, resource: &Resource) -> Json {
        let mut body = Map::new();
        if !resource.note.is_empty() {
            body.insert("//".to_owned(), json!(resource.note));
        }
        if let Json::Object(arguments) = self.arguments(&resource.arguments) {
            body.extend(arguments);
        }
        if !resource.after.is_empty() {
            let after: Vec<_> = resource.after.iter().map(|other| self.address(other)).collect();
            body.insert("depends_on".to_owned(), json!(after));
        }
        let mut lifecycle = Map::new();
        if !resource.ignored.is_empty() {
            lifecycle.insert("ignore_changes".to_owned(), json!(resource.ignored));
        }
        if resource.is_kept {
            lifecycle.insert("prevent_destroy".to_owned(), json!(true));
        }
        if !lifecycle.is_empty() {
            body.insert("lifecycle".to_owned(), Json::Object(lifecycle));
        }
        Json::Object(body)
    }

    fn arguments(&self, arguments: &[(&str, Value)]) -> Json {
        let arguments = arguments.iter();
        Json::Object(
            arguments.map(|(name, value)| ((*name).to_owned(), self.json(value))).collect(),
        )
    }

    fn json(&self, value: &Value) -> Json {
        match value {
            Value::Text(text) => json!(literal(text)),
            Value::Number(number) => json!(number),
            Value::Flag(flag) => json!(flag),
            Value::List(values) => values.iter().map(|value| self.json(value)).collect(),
            Value::Map(values) => {
                let values = values.iter();
                let entries = values.map(|(key, value)| (literal(key), self.json(value)));
                Json::Object(entries.collect())
            }
            Value::Reference(address, attribute) => {
                json!(format!("${{{}.{attribute}}}", self.address(address)))
            }
            Value::Input(input) => json!(format!("${{var.{}}}", label(&input.name))),
        }
    }
}

/// Escapes what `OpenTofu` would evaluate in a text. In the JSON syntax every text is a template:
/// <https://opentofu.org/docs/v1.12/language/expressions/strings/#escape-sequences>.
fn literal(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

/// Returns a valid identifier for a name: letters, digits, `_` and `-`, beginning with a letter or `_`
/// (<https://opentofu.org/docs/v1.12/language/syntax/configuration/#identifiers>).
fn label(name: &str) -> String {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    let label: String =
        name.chars().map(|letter| if allowed(letter) { letter } else { '_' }).collect();
    if label.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        label
    } else {
        format!("_{label}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(resources: Vec<Resource>) -> Json {
        let provider = Provider {
            name: "hcloud",
            source: "hetznercloud/hcloud",
            version: "~> 1.68",
            arguments: Vec::new(),
        };
        let configuration =
            Configuration { note: "Printed by a test.".to_owned(), provider, resources };
        serde_json::from_str(&configuration.render()).expect("JSON")
    }

    fn network(name: &str, id: Option<&str>) -> Resource {
        let arguments = vec![("name", name.into())];
        let address = Address::new("hcloud_network", name);
        Resource::new(address, id.map(ToOwned::to_owned), arguments)
    }

    #[test]
    fn only_a_resource_that_exists_has_an_import_block() {
        let json = configuration(vec![network("prod", Some("7")), network("next", None)]);
        assert_eq!(json["import"], json!([{"to": "hcloud_network.prod", "id": "7"}]));
        assert_eq!(json["resource"]["hcloud_network"]["next"], json!({"name": "next"}));
        assert!(configuration(Vec::new()).get("import").is_none());
    }

    #[test]
    fn no_text_of_a_vendor_is_evaluated() {
        let mut resource = network("${file(\"/etc/passwd\")}", Some("%{if true}${x}"));
        let labels = Value::Map(vec![("${key}".to_owned(), "%{value}".into())]);
        resource.arguments.push(("labels", labels));
        let json = configuration(vec![resource]);
        let body = &json["resource"]["hcloud_network"]["__file___etc_passwd___"];
        assert_eq!(body["name"], "$${file(\"/etc/passwd\")}");
        assert_eq!(body["labels"], json!({"$${key}": "%%{value}"}));
        assert_eq!(json["import"][0]["id"], "%%{if true}$${x}");
    }

    #[test]
    fn every_name_has_a_label_of_its_own() {
        let names = ["a.b", "a_b", "a b", "7", "-", "a_b_2", "ä"];
        let json = configuration(names.iter().map(|name| network(name, Some(name))).collect());
        let resources = json["resource"]["hcloud_network"].as_object().expect("resources");
        let labels: Vec<_> = resources.keys().map(String::as_str).collect();
        assert_eq!(labels, ["a_b", "a_b_2", "a_b_3", "_7", "_-", "a_b_2_2", "_"]);
        for (import, name) in json["import"].as_array().expect("imports").iter().zip(names) {
            let to = import["to"].as_str().and_then(|to| to.split_once('.')).expect("an address");
            assert_eq!(resources[to.1]["name"], name);
        }
    }

    #[test]
    fn reference_and_input_are_expressions() {
        let (first, other) = (network("a.b", Some("7")), network("a_b", Some("8")));
        let input = |name: &str, default, is_secret| {
            let (name, description) = (name.to_owned(), "Id of the image.".to_owned());
            Value::Input(Input { name, description, default, is_secret })
        };
        let inputs = vec![input("image arm", None, false), input("token", Some(""), true)];
        let mut server = Resource::new(
            Address::new("hcloud_server", "work"),
            None,
            vec![("network_id", other.address.id()), ("images", Value::List(inputs))],
        );
        server.after = vec![first.address.clone()];
        server.ignored = vec!["user_data"];
        server.is_kept = true;
        let json = configuration(vec![first, other, server]);
        let server = &json["resource"]["hcloud_server"]["work"];
        assert_eq!(server["network_id"], "${hcloud_network.a_b_2.id}");
        assert_eq!(server["images"], json!(["${var.image_arm}", "${var.token}"]));
        assert_eq!(server["depends_on"], json!(["hcloud_network.a_b"]));
        let lifecycle = json!({"ignore_changes": ["user_data"], "prevent_destroy": true});
        assert_eq!(server["lifecycle"], lifecycle);
        let image = json!({"type": "string", "description": "Id of the image."});
        assert_eq!(json["variable"]["image_arm"], image);
        assert_eq!(json["variable"]["token"]["default"], "");
        assert_eq!(json["variable"]["token"]["sensitive"], true);
    }
}
