//! Declared image of Talos, from which new machines are created.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Image of Talos that `apply` creates: a snapshot with the declared Talos version and these
/// customizations, for the architecture of each server type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    default,
    expecting = "an object, for example {}"
)]
pub struct Image {
    /// Official system extensions, for example `siderolabs/qemu-guest-agent`. The order has no
    /// meaning.
    pub extensions: Vec<Extension>,
    /// Additional arguments of the kernel, for example `net.ifnames=0`, in this order.
    pub kernel_arguments: Vec<KernelArgument>,
    /// URL of the Image Factory (default `https://factory.talos.dev`).
    pub factory: Factory,
}

/// Name of an official system extension, for example `siderolabs/iscsi-tools`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*$"))]
pub struct Extension(String);

impl Extension {
    /// Returns the text of the document.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Extension {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_word = |word: &str| {
            let inside =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            word.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && word.chars().all(inside)
        };
        let words = text.split_once('/');
        if words.is_some_and(|(owner, name)| is_word(owner) && is_word(name)) {
            Ok(Self(text))
        } else {
            Err("not the name of an extension, such as siderolabs/qemu-guest-agent")
        }
    }
}

/// Argument of the kernel, for example `net.ifnames=0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[!#-&(-\\[\\]-~]+$"))]
pub struct KernelArgument(String);

impl KernelArgument {
    /// Returns the text of the document.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KernelArgument {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let allowed = |c: char| c.is_ascii_graphic() && !"'\"\\".contains(c);
        // Talos's configuration and the factory write `<<`, YAML's merge key, in two ways, so that the id would differ.
        if !text.is_empty() && text.chars().all(allowed) && text != "<<" {
            Ok(Self(text))
        } else {
            Err("not one argument of the kernel, such as net.ifnames=0: without spaces and quotes")
        }
    }
}

/// URL of an Image Factory, for example `https://factory.talos.dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^https?://[a-z0-9.-]+(:[0-9]+)?$"))]
pub struct Factory(String);

impl Factory {
    /// Returns the URL, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the host, with the port if one is declared. Container images of the factory have this
    /// registry.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, host)| host)
    }
}

impl Default for Factory {
    fn default() -> Self {
        Self("https://factory.talos.dev".to_owned())
    }
}

impl TryFrom<String> for Factory {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not an HTTPS URL without a path, such as https://factory.talos.dev";
        let (scheme, address) = text.split_once("://").ok_or(wrong)?;
        let (host, port) = address.split_once(':').unwrap_or((address, "443"));
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        let is_host = !host.is_empty() && host.chars().all(allowed);
        // Plain HTTP is for a factory on this machine only, because nothing else protects the image.
        let is_safe = match scheme {
            "https" => true,
            "http" => host.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback()),
            _ => false,
        };
        if is_safe && is_host && port.parse::<u16>().is_ok_and(|port| port > 0) {
            Ok(Self(text))
        } else {
            Err(wrong)
        }
    }
}

impl fmt::Display for Factory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted<T: TryFrom<String>>(texts: &[&str]) -> Vec<bool> {
        texts.iter().map(|text| T::try_from((*text).to_owned()).is_ok()).collect()
    }

    #[test]
    fn a_name_of_an_extension_has_an_owner_and_no_tag() {
        let right =
            ["siderolabs/qemu-guest-agent", "siderolabs/nvidia-open-gpu-kernel-modules-lts"];
        assert_eq!(accepted::<Extension>(&right), [true; 2]);
        let wrong = ["", "qemu-guest-agent", "siderolabs/", "/x", "a/b/c", "a/b:1", "A/b", "a/-b"];
        assert_eq!(accepted::<Extension>(&wrong), [false; 8]);
    }

    #[test]
    fn an_argument_of_the_kernel_is_one_word_without_quotes() {
        let right = ["net.ifnames=0", "console=ttyS0,115200", "-console", "a=[b]"];
        assert_eq!(accepted::<KernelArgument>(&right), [true; 4]);
        let wrong = ["", "a b", "a='b'", "a=\"b\"", "a\\b", "a\nb", "ä", "<<"];
        assert_eq!(accepted::<KernelArgument>(&wrong), [false; 8]);
    }

    #[test]
    fn a_factory_is_reached_by_plain_http_on_this_machine_only() {
        let right =
            ["https://factory.talos.dev", "https://f.example.org:8443", "http://127.0.0.1:80"];
        assert_eq!(accepted::<Factory>(&right), [true; 3]);
        let wrong = ["http://factory.talos.dev", "https://f/", "f.org", "https://", "https://f:0"];
        assert_eq!(accepted::<Factory>(&wrong), [false; 5]);
    }
}
