//! References to secrets, which documents hold instead of the secrets.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::read::{SECRET_BYTES_MAX, read};
use crate::{Error, Identities, Secret, Sops, command, published};

const FORMS: &str = "a reference to a secret is one of {env: NAME}, {file: PATH}, \
                     {sops: FILE, key: a.b}, {command: [program, argument]} and \
                     {firstOf: [{env: NAME}, …]}";

/// Reference to a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Value of an environment variable.
    Env {
        /// Name of the variable, for example `HCLOUD_TOKEN`.
        env: String,
    },
    /// Content of a file.
    File {
        /// Path of the file, relative to the current directory.
        file: PathBuf,
    },
    /// Value in a SOPS file.
    Sops {
        /// Path of the file, relative to the current directory.
        sops: PathBuf,
        /// Path to the value, for example `s3.accessKeyId`; a number is an index into a list.
        key: String,
    },
    /// Standard output of a command.
    Command {
        /// Program and its arguments, which are not interpreted by a shell.
        command: Vec<String>,
    },
    /// First of several references that is set: CI has the secret in its environment, and a person has
    /// it in a SOPS file. Only an unset environment variable falls through to the next reference; any
    /// other error is reported.
    FirstOf {
        /// References in order; each but the last is an environment variable.
        first_of: Vec<Reference>,
    },
    /// Reference whose secret must not be published. [`Self::guard`] creates it, and documents cannot
    /// contain it.
    Guarded(Box<Reference>),
}

impl Reference {
    /// Reads the secret. A map or a list of a SOPS file is returned as JSON.
    ///
    /// # Errors
    ///
    /// The secret does not exist, is empty, or cannot be read; or it is published and the reference is
    /// guarded.
    pub fn resolve(&self) -> Result<Secret, Error> {
        let secret = match self {
            Self::Env { env } => {
                let value = std::env::var_os(env).ok_or_else(|| Error::Unset(env.clone()))?;
                Secret::new(value.into_encoded_bytes())
            }
            Self::File { file } => read(file, SECRET_BYTES_MAX)?,
            Self::Sops { sops, key } => {
                Sops::open(sops, &Identities::from_environment()?)?.get(key)?
            }
            Self::Command { command } => command::run(command)?,
            Self::FirstOf { first_of } => {
                let first = first(first_of);
                return first.map_or_else(|| Err(Error::Empty(self.to_string())), Self::resolve);
            }
            Self::Guarded(inner) => {
                let chosen = inner.chosen();
                if let Self::Sops { sops, .. } = chosen {
                    published::refuse_file(sops)?;
                }
                let secret = chosen.resolve()?;
                published::refuse(&secret, &chosen.to_string())?;
                return Ok(secret);
            }
        };
        if secret.is_empty() { Err(Error::Empty(self.to_string())) } else { Ok(secret) }
    }

    /// Makes every later [`Self::resolve`] fail when the secret is published.
    pub fn guard(&mut self) {
        let inner = std::mem::replace(self, Self::FirstOf { first_of: Vec::new() });
        *self = Self::Guarded(Box::new(inner));
    }

    /// Whether [`Self::guard`] was called.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        matches!(self, Self::Guarded(_))
    }

    /// Returns the reference that is resolved, after every alternative has been decided.
    fn chosen(&self) -> &Self {
        match self {
            Self::FirstOf { first_of } => first(first_of).map_or(self, Self::chosen),
            Self::Guarded(inner) => inner.chosen(),
            Self::Env { .. } | Self::File { .. } | Self::Sops { .. } | Self::Command { .. } => self,
        }
    }

    /// Whether [`Self::resolve`] can be called twice: it runs no command, which may ask a person, and
    /// reads no pipe, which gives its content once.
    #[must_use]
    pub fn can_be_resolved_twice(&self) -> bool {
        match self.chosen() {
            Self::Env { .. } => true,
            Self::File { file } | Self::Sops { sops: file, .. } => file.is_file(),
            Self::Command { .. } | Self::FirstOf { .. } | Self::Guarded(_) => false,
        }
    }
}

/// Returns the first reference that is set, or else the last one, whose error is then reported.
fn first(references: &[Reference]) -> Option<&Reference> {
    let is_set = |reference: &&Reference| match reference {
        Reference::Env { env } => std::env::var_os(env).is_some(),
        _ => true,
    };
    references.iter().find(is_set).or(references.last())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { env } => write!(f, "the environment variable {env}"),
            Self::File { file } => write!(f, "{}", file.display()),
            Self::Sops { sops, key } => write!(f, "`{key}` of {}", sops.display()),
            Self::Command { command } => {
                write!(f, "the output of `{} …`", command.first().map_or("", String::as_str))
            }
            Self::FirstOf { first_of } => {
                let references: Vec<_> = first_of.iter().map(ToString::to_string).collect();
                f.write_str(&references.join(", or "))
            }
            Self::Guarded(inner) => inner.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Reference {
    /// Written by hand, because a derived implementation quotes the value that it rejects, which may be
    /// a token that a person wrote in place of a reference.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from).map_err(|_| D::Error::custom(FORMS))?;
        let fields = value.as_object().ok_or_else(|| D::Error::custom(FORMS))?;
        parse(fields).map_err(D::Error::custom)
    }
}

fn parse(fields: &Map<String, Value>) -> Result<Reference, &'static str> {
    let text = |name: &str| fields.get(name)?.as_str().filter(|text| !text.is_empty());
    let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    match names.as_slice() {
        ["env"] => {
            let env = text("env").filter(|name| is_variable(name));
            let env = env.ok_or("`env` takes the name of a variable: A-Z, 0-9 and _")?;
            Ok(Reference::Env { env: env.to_owned() })
        }
        ["file"] => {
            let file = text("file").ok_or("`file` takes a path")?;
            Ok(Reference::File { file: file.into() })
        }
        ["key", "sops"] => {
            let sops = text("sops").ok_or("`sops` takes the path of a SOPS file")?;
            let key = text("key").filter(|key| !key.split('.').any(str::is_empty));
            let key = key.ok_or("`key` takes the path to a value: a.b")?;
            Ok(Reference::Sops { sops: sops.into(), key: key.to_owned() })
        }
        ["sops"] => Err("`sops` requires `key`, the path to a value of the file: a.b"),
        ["command"] => {
            let words = fields.get("command").and_then(Value::as_array);
            let words = words.filter(|words| words.first().is_some_and(|program| *program != ""));
            let words = words.and_then(|words| words.iter().map(Value::as_str).collect());
            let words: Vec<&str> =
                words.ok_or("`command` takes a list of words, the program first")?;
            Ok(Reference::Command { command: words.into_iter().map(str::to_owned).collect() })
        }
        ["firstOf"] => {
            let entries = fields.get("firstOf").and_then(Value::as_array);
            let entries = entries
                .filter(|entries| entries.len() > 1)
                .ok_or("`firstOf` takes a list of two or more references")?;
            let reference = |entry: &Value| {
                let fields = entry.as_object().filter(|fields| !fields.contains_key("firstOf"));
                parse(fields.ok_or(FORMS)?)
            };
            let first_of = entries.iter().map(reference).collect::<Result<Vec<_>, _>>()?;
            // Only an unset variable falls through, so a reference after any other is never used.
            match first_of.split_last() {
                Some((_, before))
                    if before.iter().all(|entry| matches!(entry, Reference::Env { .. })) =>
                {
                    Ok(Reference::FirstOf { first_of })
                }
                _ => Err("each entry of `firstOf` but the last must be `env`: only an unset \
                          variable falls through to the next entry"),
            }
        }
        _ => Err(FORMS),
    }
}

/// Whether `name` is the name of a variable. The check is strict, because a token that was pasted here
/// would otherwise be quoted as the name of an unset variable.
fn is_variable(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= 128 && name.bytes().all(is_allowed) && !name.as_bytes()[0].is_ascii_digit()
}

impl JsonSchema for Reference {
    fn schema_name() -> Cow<'static, str> {
        "Reference".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let form = |description: &str, fields: Value| {
            let required: Vec<_> = fields.as_object().into_iter().flat_map(Map::keys).collect();
            json_schema!({
                "type": "object",
                "description": description,
                "properties": fields,
                "required": required,
                "additionalProperties": false,
            })
        };
        let text = json_schema!({ "type": "string", "minLength": 1 });
        let variable = json_schema!({ "type": "string", "pattern": "^[A-Z_][A-Z0-9_]{0,127}$" });
        let words = json_schema!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
        let forms = [
            form("Value of an environment variable.", serde_json::json!({ "env": variable })),
            form("Content of a file.", serde_json::json!({ "file": text })),
            form(
                "Value in a SOPS file; a number in `key` is an index into a list.",
                serde_json::json!({ "sops": text, "key": text }),
            ),
            form(
                "Standard output of a command, which runs without a shell.",
                serde_json::json!({ "command": words }),
            ),
        ];
        let several = json_schema!({ "type": "array", "items": { "oneOf": forms }, "minItems": 2 });
        let several = form(
            "First of several references that is set: each but the last is an environment variable, \
             which may be unset.",
            serde_json::json!({ "firstOf": several }),
        );
        json_schema!({
            "description": "Reference to a secret: a document never holds the secret itself.",
            "oneOf": forms.into_iter().chain([several]).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Reference, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_reference_has_one_of_five_forms() {
        let right = [
            (json!({"env": "HCLOUD_TOKEN"}), "the environment variable HCLOUD_TOKEN"),
            (json!({"file": "/run/token"}), "/run/token"),
            (json!({"sops": "s.yaml", "key": "a.b"}), "`a.b` of s.yaml"),
            (json!({"command": ["op", "read", "op://a/b"]}), "the output of `op …`"),
            (
                json!({"firstOf": [{"env": "HCLOUD_TOKEN"}, {"sops": "s.yaml", "key": "a"}]}),
                "the environment variable HCLOUD_TOKEN, or `a` of s.yaml",
            ),
        ];
        for (value, shown) in right {
            assert_eq!(read(value).expect("right").to_string(), shown);
        }
    }

    #[test]
    fn a_token_that_was_pasted_where_a_reference_belongs_is_not_quoted() {
        let wrong = [
            json!("hunter2"),
            json!(["hunter2"]),
            json!({"hunter2": "hunter2"}),
            json!({"token": "hunter2"}),
            json!({"env": "hunter2"}),
            json!({"env": "ghp_hunter2"}),
            json!({"env": ["hunter2"]}),
            json!({"env": ""}),
            json!({"env": "1A"}),
            json!({"env": "A", "file": "hunter2"}),
            json!({"file": {"hunter2": 1}}),
            json!({"sops": "hunter2"}),
            json!({"key": "hunter2"}),
            json!({"sops": "hunter2", "key": ""}),
            json!({"sops": "hunter2", "key": "a..b"}),
            json!({"command": "hunter2"}),
            json!({"command": []}),
            json!({"command": [""]}),
            json!({"command": ["hunter2", 5]}),
            json!({"firstOf": "hunter2"}),
            json!({"firstOf": ["hunter2", "hunter2"]}),
            json!({"firstOf": [{"env": "A"}]}),
            json!({"firstOf": [{"env": "A"}, {"env": "hunter2"}]}),
            json!({"firstOf": [{"file": "hunter2"}, {"env": "A"}]}),
            json!({"firstOf": [{"env": "A"}, {"firstOf": [{"env": "A"}, {"env": "B"}]}]}),
            json!({}),
            json!(null),
            json!(5),
        ];
        for value in wrong {
            let error = read(value.clone()).expect_err(&value.to_string());
            assert!(!error.contains("hunter2") && !error.contains("1A"), "{error}");
        }
    }

    #[test]
    fn the_schema_has_the_same_five_forms() {
        let schema = schemars::schema_for!(Reference).to_value();
        let forms = schema["oneOf"].as_array().expect("forms");
        let required: Vec<_> = forms.iter().map(|form| form["required"].to_string()).collect();
        let expected =
            [r#"["env"]"#, r#"["file"]"#, r#"["sops","key"]"#, r#"["command"]"#, r#"["firstOf"]"#];
        assert_eq!(required, expected);
        assert!(forms.iter().all(|form| form["additionalProperties"] == false));
    }

    #[test]
    fn a_secret_is_read_from_the_environment_and_from_a_command() {
        let env = Reference::Env { env: "CARGO_PKG_NAME".to_owned() };
        assert_eq!(env.resolve().expect("set").text().expect("text"), "secrets");
        let words = ["printf", "secret"].map(str::to_owned).to_vec();
        let command = Reference::Command { command: words };
        assert_eq!(command.resolve().expect("runs").expose(), b"secret");
    }

    #[test]
    fn only_an_unset_variable_falls_through_to_the_next_reference() {
        let env = |name: &str| Reference::Env { env: name.to_owned() };
        let file = |name: &str| Reference::File { file: name.into() };
        let first_of = |all: &[Reference]| Reference::FirstOf { first_of: all.to_vec() }.resolve();
        let found = first_of(&[env("NOT_SET"), env("CARGO_PKG_NAME"), file("/nowhere")]);
        assert_eq!(found.expect("set").text().expect("text"), "secrets");
        let missing = first_of(&[env("NOT_SET"), file("/nowhere")]);
        assert!(matches!(missing, Err(Error::Unreadable { .. })));
        let missing = first_of(&[env("NOT_SET"), env("NOT_SET_EITHER")]);
        assert!(matches!(missing, Err(Error::Unset(name)) if name == "NOT_SET_EITHER"));
    }

    #[test]
    fn an_empty_secret_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "\n").expect("written");
        assert!(matches!(Reference::File { file }.resolve(), Err(Error::Empty(_))));
        let command = Reference::Command { command: vec!["true".to_owned()] };
        assert!(matches!(command.resolve(), Err(Error::Empty(_))));
    }

    #[test]
    fn a_file_above_the_size_limit_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, vec![b'x'; 64 * 1024]).expect("written");
        assert!(Reference::File { file: file.clone() }.resolve().is_ok());
        std::fs::write(&file, vec![b'x'; 64 * 1024 + 1]).expect("written");
        assert!(matches!(Reference::File { file }.resolve(), Err(Error::TooLarge { .. })));
    }
}
