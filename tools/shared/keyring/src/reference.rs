//! Where a secret is: what a document holds instead of the secret.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{Error, Identities, Secret, Sops, command, published};

/// Largest secret, in bytes.
pub(crate) const SECRET_BYTES_MAX: u64 = 64 * 1024;

const FORMS: &str = "a reference to a secret is one of {env: NAME}, {file: PATH}, \
                     {sops: FILE, key: a.b}, {command: [program, argument]} and \
                     {firstOf: [{env: NAME}, …]}";

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// In a variable of the environment.
    Env {
        /// Its name.
        env: String,
    },
    /// In a file.
    File {
        /// Its path.
        file: PathBuf,
    },
    /// In a SOPS file.
    Sops {
        /// Its path.
        sops: PathBuf,
        /// Which value of it: `a.b`; a number is an index into a list.
        key: String,
    },
    /// On the standard output of a command.
    Command {
        /// The program and its arguments; no shell reads them.
        command: Vec<String>,
    },
    /// In the first of several places where it is: CI has it in its environment, a person in a
    /// SOPS file. Passed over is only a variable that is not set; whatever else is wrong is told.
    FirstOf {
        /// The places.
        first_of: Vec<Reference>,
    },
    /// One of the above, in a project with an endpoint on another machine: a published secret is
    /// refused. Documents do not contain it; [`crate::Projects::read`] makes it.
    Guarded(Box<Reference>),
}

impl Reference {
    /// Fetches the secret. A whole map or list of a SOPS file comes as JSON.
    ///
    /// # Errors
    ///
    /// It is not there, is empty, or cannot be read.
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
                let place = inner.place();
                if let Self::Sops { sops, .. } = place {
                    published::refuse_file(sops)?;
                }
                let secret = place.resolve()?;
                published::refuse(&secret, place)?;
                return Ok(secret);
            }
        };
        if secret.is_empty() { Err(Error::Empty(self.to_string())) } else { Ok(secret) }
    }

    /// Where the secret is, after every alternative has been decided.
    fn place(&self) -> &Self {
        match self {
            Self::FirstOf { first_of } => first(first_of).map_or(self, Self::place),
            Self::Guarded(inner) => inner.place(),
            Self::Env { .. } | Self::File { .. } | Self::Sops { .. } | Self::Command { .. } => self,
        }
    }

    /// Whether [`Self::resolve`] runs no command, which may ask a person, and reads no pipe, which
    /// gives its content once.
    pub(crate) fn can_be_resolved_twice(&self) -> bool {
        match self.place() {
            Self::Env { .. } => true,
            Self::File { file } | Self::Sops { sops: file, .. } => file.is_file(),
            Self::Command { .. } | Self::FirstOf { .. } | Self::Guarded(_) => false,
        }
    }
}

/// The first place that is set, or else the last one, which is then reported.
fn first(places: &[Reference]) -> Option<&Reference> {
    let is_set = |place: &&Reference| match place {
        Reference::Env { env } => std::env::var_os(env).is_some(),
        _ => true,
    };
    places.iter().find(is_set).or(places.last())
}

/// Reads a whole file that may hold a secret.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Secret, Error> {
    let unreadable = |source| Error::Unreadable { file: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    // Large enough from the start: a vector that moves leaves its old bytes behind.
    let length = file.metadata().map_err(unreadable)?.len().min(bytes_max);
    let capacity = usize::try_from(length + 1).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::TooLarge { what: path.display().to_string(), bytes_max });
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
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
                let places: Vec<_> = first_of.iter().map(ToString::to_string).collect();
                f.write_str(&places.join(", or "))
            }
            Self::Guarded(inner) => inner.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Reference {
    /// By hand, so that no message quotes a token that a person wrote where a reference belongs.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from).map_err(|_| D::Error::custom(FORMS))?;
        let fields = value.as_object().ok_or_else(|| D::Error::custom(FORMS))?;
        parse(fields).map_err(D::Error::custom)
    }
}

fn parse(fields: &Map<String, Value>) -> Result<Reference, &'static str> {
    let text = |name: &str| fields.get(name).map(|it| it.as_str().filter(|it| !it.is_empty()));
    let mut names: Vec<_> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    match names.as_slice() {
        ["env"] => {
            let env = text("env").flatten().filter(|it| is_variable(it));
            let env = env.ok_or("`env` takes the name of a variable: A-Z, 0-9 and _")?;
            Ok(Reference::Env { env: env.to_owned() })
        }
        ["file"] => {
            let file = text("file").flatten().ok_or("`file` takes a path")?;
            Ok(Reference::File { file: file.into() })
        }
        ["key", "sops"] => {
            let sops = text("sops").flatten().ok_or("`sops` takes the path of a SOPS file")?;
            let key = text("key").flatten().filter(|it| !it.split('.').any(str::is_empty));
            let key = key.ok_or("`key` takes the way to a value: a.b")?;
            Ok(Reference::Sops { sops: sops.into(), key: key.to_owned() })
        }
        ["sops"] => Err("`sops` needs `key` beside it: which value of the file"),
        ["command"] => {
            let words = fields.get("command").and_then(Value::as_array);
            let words = words.filter(|it| it.first().is_some_and(|it| *it != ""));
            let words = words.and_then(|it| it.iter().map(|it| it.as_str()).collect());
            let words: Vec<&str> =
                words.ok_or("`command` takes a list of words, the program first")?;
            Ok(Reference::Command { command: words.into_iter().map(str::to_owned).collect() })
        }
        ["firstOf"] => {
            let places = fields.get("firstOf").and_then(Value::as_array);
            let places =
                places.filter(|it| it.len() > 1).ok_or("`firstOf` takes a list of references")?;
            let fields =
                |it: &Value| it.as_object().filter(|it| !it.contains_key("firstOf")).cloned();
            let place = |it| parse(&fields(it).ok_or(FORMS)?);
            let first_of = places.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            // What stands behind a place that is never passed over would never be asked.
            match first_of.split_last() {
                Some((_, before))
                    if before.iter().all(|it| matches!(it, Reference::Env { .. })) =>
                {
                    Ok(Reference::FirstOf { first_of })
                }
                _ => Err("all of `firstOf` but the last are `env`: nothing else is passed over"),
            }
        }
        _ => Err(FORMS),
    }
}

/// Strict, so that a token pasted here is refused before anything would name it.
fn is_variable(name: &str) -> bool {
    let allowed = |it: u8| it.is_ascii_uppercase() || it.is_ascii_digit() || it == b'_';
    name.len() <= 128 && name.bytes().all(allowed) && !name.as_bytes()[0].is_ascii_digit()
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
        let places = [
            form("In a variable of the environment.", serde_json::json!({ "env": variable })),
            form("In a file.", serde_json::json!({ "file": text })),
            form(
                "In a SOPS file; a number in `key` is an index into a list.",
                serde_json::json!({ "sops": text, "key": text }),
            ),
            form(
                "On the standard output of a command, which no shell reads.",
                serde_json::json!({ "command": words }),
            ),
        ];
        let several =
            json_schema!({ "type": "array", "items": { "oneOf": places }, "minItems": 2 });
        let several = form(
            "In the first of these that is there: each but the last is a variable of the environment, \
             which may not be set.",
            serde_json::json!({ "firstOf": several }),
        );
        json_schema!({
            "description": "Where a secret is: a document never holds the secret itself.",
            "oneOf": places.into_iter().chain([several]).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Reference, String> {
        serde_json::from_value(value).map_err(|it| it.to_string())
    }

    #[test]
    fn there_are_five_ways_to_say_where_a_secret_is() {
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
        let required: Vec<_> = forms.iter().map(|it| it["required"].to_string()).collect();
        let forms_are =
            [r#"["env"]"#, r#"["file"]"#, r#"["sops","key"]"#, r#"["command"]"#, r#"["firstOf"]"#];
        assert_eq!(required, forms_are);
        assert!(forms.iter().all(|it| it["additionalProperties"] == false));
    }

    #[test]
    fn a_secret_is_fetched_from_the_environment_and_from_a_command() {
        let env = Reference::Env { env: "CARGO_PKG_NAME".to_owned() };
        assert_eq!(env.resolve().expect("set").text().expect("text"), "keyring");
        let words = ["printf", "secret"].map(str::to_owned).to_vec();
        let command = Reference::Command { command: words };
        assert_eq!(command.resolve().expect("runs").expose(), b"secret");
    }

    #[test]
    fn a_variable_that_is_not_set_is_passed_over_and_nothing_else_is() {
        let env = |name: &str| Reference::Env { env: name.to_owned() };
        let file = |name: &str| Reference::File { file: name.into() };
        let first_of = |all: &[Reference]| Reference::FirstOf { first_of: all.to_vec() }.resolve();
        let found = first_of(&[env("NOT_SET"), env("CARGO_PKG_NAME"), file("/nowhere")]);
        assert_eq!(found.expect("set").text().expect("text"), "keyring");
        let missing = first_of(&[env("NOT_SET"), file("/nowhere")]);
        assert!(matches!(missing, Err(Error::Unreadable { .. })));
        let missing = first_of(&[env("NOT_SET"), env("NOT_SET_EITHER")]);
        assert!(matches!(missing, Err(Error::Unset(name)) if name == "NOT_SET_EITHER"));
    }

    #[test]
    fn an_empty_secret_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "\n").expect("written");
        assert!(matches!(Reference::File { file }.resolve(), Err(Error::Empty(_))));
        let command = Reference::Command { command: vec!["true".to_owned()] };
        assert!(matches!(command.resolve(), Err(Error::Empty(_))));
    }

    #[test]
    fn a_file_that_is_larger_than_any_secret_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, vec![b'x'; 64 * 1024]).expect("written");
        assert!(Reference::File { file: file.clone() }.resolve().is_ok());
        std::fs::write(&file, vec![b'x'; 64 * 1024 + 1]).expect("written");
        assert!(matches!(Reference::File { file }.resolve(), Err(Error::TooLarge { .. })));
    }
}
