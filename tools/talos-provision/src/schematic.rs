//! Schematics of Talos's Image Factory: the customizations of an image, and their id.
//!
//! The id is the SHA-256 digest of the schematic's canonical YAML, which is the order of fields and
//! the style of `Schematic.Marshal` (github.com/siderolabs/image-factory v0.8.4,
//! `pkg/schematic/schematic.go`). `tests/schematic.rs` compares ids with those of that package.

use serde_json::{Map, Value, json};

use crate::emit;
use crate::spec::{Extension, Image, KernelArgument};

/// Characters of a schematic's id in a label. An id has 64 characters, and the value of a label at
/// most 63 (<https://docs.hetzner.cloud/reference/cloud#labels>). 32 characters are 128 bits.
const LABEL_CHARACTERS: usize = 32;

/// Customizations of an image of Talos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schematic {
    yaml: String,
    id: String,
}

impl Schematic {
    /// Returns the schematic of a declared image. Extensions are sorted, so that their order in the
    /// document does not change the id.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        let mut customization = Map::new();
        let arguments: Vec<_> = image.kernel_arguments.iter().map(KernelArgument::as_str).collect();
        if !arguments.is_empty() {
            customization.insert("extraKernelArgs".to_owned(), json!(arguments));
        }
        let mut extensions: Vec<_> = image.extensions.iter().map(Extension::as_str).collect();
        extensions.sort_unstable();
        if !extensions.is_empty() {
            let extensions = json!({"officialExtensions": extensions});
            customization.insert("systemExtensions".to_owned(), extensions);
        }
        let yaml = emit::document(&json!({"customization": Value::Object(customization)}));
        let id = crate::pki::sha256_hex(yaml.as_bytes());
        Self { yaml, id }
    }

    /// Returns the canonical YAML, which registers the schematic with a factory.
    #[must_use]
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    /// Returns the id: 64 characters of lower-case hex.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the beginning of the id, as labels hold it.
    #[must_use]
    pub fn label(&self) -> &str {
        self.id.get(..LABEL_CHARACTERS).unwrap_or(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schematic(document: &str) -> Schematic {
        Schematic::of(&serde_json::from_str(document).expect("an image"))
    }

    /// The ids are those of the published test of the package, `pkg/schematic/schematic_test.go`.
    #[test]
    fn ids_are_those_that_the_factory_publishes() {
        let plain = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
        for empty in ["{}", r#"{"extensions": [], "kernelArguments": []}"#] {
            assert_eq!(schematic(empty).id(), plain, "{empty}");
        }
        assert_eq!(schematic("{}").yaml(), "customization: {}\n");
        let arguments = schematic(r#"{"kernelArguments": ["noapic", "nolapic"]}"#);
        let id = "9cba8e32753f91a16c1837ab8abf356af021706ef284aef07380780177d9a06c";
        assert_eq!(arguments.id(), id);
        assert_eq!(arguments.label(), &id[..32]);
    }

    /// The id is that of the image that Hetzner offers as an ISO
    /// (<https://www.talos.dev/v1.11/talos-guides/install/cloud-platforms/hetzner/>, 2025-04-23).
    #[test]
    fn the_id_of_the_guest_agent_is_that_of_the_vendors_iso() {
        let id = "ce4c980550dd2ab1b17bbf2b08801c7eb59418eafe8f279833297925d67c7515";
        assert_eq!(schematic(r#"{"extensions": ["siderolabs/qemu-guest-agent"]}"#).id(), id);
    }

    #[test]
    fn the_order_of_extensions_does_not_change_the_id() {
        let one = schematic(r#"{"extensions": ["siderolabs/b", "siderolabs/a"]}"#);
        let other = schematic(r#"{"extensions": ["siderolabs/a", "siderolabs/b"]}"#);
        assert_eq!(one, other);
        assert!(
            one.yaml().contains("- siderolabs/a\n            - siderolabs/b\n"),
            "{}",
            one.yaml()
        );
    }
}
