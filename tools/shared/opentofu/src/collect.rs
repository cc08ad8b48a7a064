//! The option `--output tofu` of `plan`, and the resources of all documents of a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use documents::{Form, Rendering, ResultForm};

use crate::configuration::{Configuration, Provider};
use crate::value::Resource;

/// The one form beside documents that `plan` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tofu;

impl Form for Tofu {
    const NAMES: &'static [(&'static str, Self)] = &[("tofu", Self)];
}

/// Options of `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanOptions {
    /// Format of standard output: `json`, or `tofu` for a configuration with import blocks
    ///
    /// The configuration (`.tf.json`) has every declared resource, and an import block for each one that
    /// this program has created, so that `tofu apply` takes it over without a change. It holds no secret.
    /// With `=FILE`, for example `tofu=main.tf.json`, the configuration is written to the file, and standard
    /// output has the documents. Nothing is written unless every document could be planned. The exit status
    /// is the same in every format.
    #[arg(
        short,
        long,
        value_name = "FORMAT[=FILE]",
        default_value = "json",
        conflicts_with = "destroy"
    )]
    pub output: ResultForm<Tofu>,
}

/// Resources of the documents of a run, by name of the document.
#[derive(Debug)]
pub struct Collector {
    output: ResultForm<Tofu>,
    resources: Mutex<BTreeMap<String, Vec<Resource>>>,
}

impl Collector {
    /// Returns a collector for the options of the command line; `None` for another verb than `plan`.
    #[must_use]
    pub fn new(options: Option<&PlanOptions>) -> Self {
        let output = options.map_or(ResultForm::Documents, |options| options.output.clone());
        Self { output, resources: Mutex::default() }
    }

    /// Whether the command line asks for a configuration.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.output != ResultForm::Documents
    }

    /// Adds the resources of a document that was planned.
    pub fn add(&self, document: &str, resources: Vec<Resource>) {
        let mut all = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(document.to_owned(), resources);
    }

    /// Returns the configuration of all documents in `names`, if the command line asks for one. If a
    /// document could not be planned, standard output stays empty, and a file stays as it is.
    pub fn rendering(&self, provider: &Provider, names: &[&str]) -> Option<Rendering> {
        let ResultForm::Other(Tofu, file) = &self.output else { return None };
        let all = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        let is_complete = names.iter().all(|name| all.contains_key(*name));
        if names.is_empty() || !is_complete {
            let why = "no configuration of OpenTofu is written, because it would lack resources";
            documents::note("-", why);
            let nothing = Rendering { text: String::new(), file: None };
            return file.is_none().then_some(nothing);
        }
        let note = format!(
            "Declared: {}. A resource without an import block does not exist yet. Credentials come from the \
             environment of OpenTofu.",
            names.join(", ")
        );
        let resources = names.iter().flat_map(|name| &all[*name]).cloned().collect();
        let configuration = Configuration { note, provider: provider.clone(), resources };
        Some(Rendering { text: configuration.render(), file: file.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::value::Address;

    const PROVIDER: Provider = Provider {
        name: "hcloud",
        source: "hetznercloud/hcloud",
        version: "~> 1.68",
        arguments: Vec::new(),
    };

    fn collector(output: &str) -> Collector {
        let options = PlanOptions { output: output.parse().expect("a form") };
        let collector = Collector::new(Some(&options));
        let address = Address::new("hcloud_network", "prod");
        collector.add("prod", vec![Resource::new(address, None, Vec::new())]);
        collector
    }

    #[test]
    fn configuration_has_all_documents_or_is_not_written() {
        let (alone, beside) = (collector("tofu"), collector("tofu=main.tf.json"));
        let file = Some(PathBuf::from("main.tf.json"));
        let text = alone.rendering(&PROVIDER, &["prod"]).expect("a configuration").text;
        assert!(text.contains("hcloud_network"), "{text}");
        let expected = Rendering { text, file };
        assert_eq!(beside.rendering(&PROVIDER, &["prod"]), Some(expected));

        let nothing = Rendering { text: String::new(), file: None };
        for names in [&["prod", "next"][..], &[]] {
            assert_eq!(alone.rendering(&PROVIDER, names), Some(nothing.clone()));
            assert_eq!(beside.rendering(&PROVIDER, names), None, "the documents are written");
        }
    }

    #[test]
    fn documents_are_written_unless_a_configuration_is_asked_for() {
        for collector in [collector("json"), Collector::new(None)] {
            assert!(!collector.is_asked());
            assert_eq!(collector.rendering(&PROVIDER, &["prod"]), None);
        }
        assert!(collector("tofu").is_asked());
    }
}
