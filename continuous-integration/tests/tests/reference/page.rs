//! The page of one kind: a table for each object of its documents.

use std::fmt::Write as _;
use std::fs;

use repository_tests::{OWNERS, root};
use serde_json::{Map, Value};

use crate::{Test, documents, examples, yaml_files};

/// Longest example in a cell. A longer one makes the table unreadable.
const EXAMPLE_LETTERS_MAX: usize = 130;

/// Deepest nesting of objects. A deeper one would mean that a definition refers to itself.
const DEPTH_MAX: usize = 12;

/// Units in the last word of a field's name.
const UNITS: [(&str, &str); 4] =
    [("Seconds", "seconds"), ("Minutes", "minutes"), ("Days", "days"), ("years", "years")];

/// One field of a document.
#[derive(Debug)]
pub(crate) struct Field {
    /// Path, for example `spec.pools[].name`.
    pub(crate) path: String,
    /// Type with its range, unit and pattern.
    values: String,
    is_required: bool,
    default: String,
    pub(crate) meaning: String,
    pub(crate) example: String,
}

/// An object and its fields.
struct Section {
    path: String,
    meaning: String,
    fields: Vec<Field>,
}

struct Reader<'a> {
    kind: &'a str,
    root: &'a Value,
    examples: &'a [Value],
    sections: Vec<Section>,
}

/// Returns the fields that people write.
pub(crate) fn fields(kind: &str, schema: &Value, examples: &[Value]) -> Vec<Field> {
    let metadata = sections(kind, schema, examples, &["metadata"]);
    let spec = sections(kind, schema, examples, &["spec"]);
    metadata.into_iter().chain(spec).flat_map(|section| section.fields).collect()
}

/// Returns the page of `kind`, whose types are in the crate in `folder`.
pub(crate) fn page(kind: &str, folder: &str, schema: &Value, examples: &[Value]) -> Test<String> {
    let description = one_line(schema["description"].as_str().unwrap_or_default());
    let reader = match folder {
        "shared/contract" => "Every program reads it.".to_owned(),
        program => format!("`{program}` applies it."),
    };
    let others = OWNERS.iter().filter(|(other, _)| *other != kind);
    let others: Vec<_> =
        others.map(|(other, _)| format!("[{other}]({}.md)", other.to_lowercase())).collect();
    let mut page = format!(
        "---\ntitle: {kind}\nsummary: Every field of a {kind} document, with type, default and example.\n\
         date: 2026-11-30\n---\n{description} {reader}\n\n\
         This page is generated from [the JSON Schema](../../tools/{folder}/schema.json) of the kind:\n\
         `SNAPSHOTS=overwrite cargo nextest run -p repository-tests --test reference`. \
         [One schema](schema.json) describes a\nstream of any kinds. Other kinds: {}.\n\n",
        others.join(", ")
    );
    let _ = write!(page, "## Example\n```yaml\n{}```\n", written(kind)?);
    for (title, path) in [("Metadata", &["metadata"][..]), ("Spec", &["spec"])] {
        let _ = write!(page, "\n## {title}\n");
        for section in sections(kind, schema, examples, path) {
            table(&mut page, &section, path.len() == 1);
        }
    }
    let facts = sections(kind, schema, examples, &["status", "observed"]);
    if !facts.is_empty() {
        page += "\n## Status\nThe program writes these facts. `status.conditions` and `status.refusals` have \
                 [reasons](../reasons.md).\n";
    }
    for section in facts {
        table(&mut page, &section, false);
    }
    if let Some(reference) = schema["$defs"].get("Reference") {
        page += &secret_reference(reference);
    }
    Ok(page)
}

/// Returns the first document of `kind` in this repository, as its author wrote it.
fn written(kind: &str) -> Test<String> {
    for folder in ["project", "sources", "machines", "deployments"] {
        for file in yaml_files(&root().join(folder))? {
            if documents(&file)?.iter().any(|document| document["kind"] == kind) {
                let text = fs::read_to_string(&file)?;
                let head = |line: &&str| line.starts_with("---") || line.starts_with('#');
                let body: Vec<&str> = text.lines().skip_while(head).collect();
                return Ok(body.join("\n") + "\n");
            }
        }
    }
    Err(format!("this repository has no {kind}").into())
}

fn sections(kind: &str, schema: &Value, examples: &[Value], path: &[&str]) -> Vec<Section> {
    let mut reader = Reader { kind, root: schema, examples, sections: Vec::new() };
    let mut target = schema.clone();
    for step in path {
        target = reader.resolved(&target["properties"][step]);
    }
    let path: Vec<String> = path.iter().map(|step| (*step).to_owned()).collect();
    reader.object(&path, &target);
    reader.sections
}

impl Reader<'_> {
    /// Returns `schema` with the definition to which it refers. Its own keywords come before those of the
    /// definition.
    fn resolved(&self, schema: &Value) -> Value {
        let Some(name) = schema["$ref"].as_str() else { return schema.clone() };
        let mut definition = self.root.pointer(&name[1..]).cloned().unwrap_or_default();
        if let (Some(entries), Some(own)) = (definition.as_object_mut(), schema.as_object()) {
            let own = own.iter().filter(|(keyword, _)| *keyword != "$ref");
            entries.extend(own.map(|(keyword, value)| (keyword.clone(), value.clone())));
        }
        self.resolved(&definition)
    }

    /// Adds the section of an object, then the sections of the objects in its fields.
    fn object(&mut self, path: &[String], schema: &Value) {
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let alternatives = tagged(schema);
        if path.len() > DEPTH_MAX || (properties.is_empty() && alternatives.is_empty()) {
            return;
        }
        let mut section = Section {
            path: shown(path),
            meaning: one_line(schema["description"].as_str().unwrap_or_default()),
            fields: Vec::new(),
        };
        let mut inner = Vec::new();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let own = properties.iter().map(|(name, field)| {
            let is_required = required.iter().any(|required| required == name.as_str());
            (name.clone(), field.clone(), is_required)
        });
        for (name, field, is_required) in own.chain(alternatives) {
            let path: Vec<String> = path.iter().cloned().chain([name]).collect();
            section.fields.push(self.field(&path, &field, is_required));
            inner.push(self.inner(path, &field));
        }
        self.sections.push(section);
        for (path, schema) in inner {
            self.object(&path, &schema);
        }
    }

    /// Follows lists and maps to the schema of their items.
    fn inner(&self, mut path: Vec<String>, schema: &Value) -> (Vec<String>, Value) {
        if is_reference(schema) {
            return (path, Value::Null);
        }
        let schema = self.resolved(schema);
        if schema["items"].is_object() {
            path.push("[]".to_owned());
            self.inner(path, &schema["items"])
        } else if let Some(values) = map_values(&schema) {
            path.push("<>".to_owned());
            self.inner(path, values)
        } else {
            (path, schema)
        }
    }

    fn field(&self, path: &[String], schema: &Value, is_required: bool) -> Field {
        let name = path.last().map_or("", String::as_str);
        let unit = UNITS.iter().find(|(suffix, _)| name.ends_with(suffix));
        let unit = unit.map_or(String::new(), |(_, unit)| format!(", in {unit}"));
        let full = self.resolved(schema);
        let description = one_line(full["description"].as_str().unwrap_or_default());
        let default = match &full["default"] {
            Value::Null => stated_default(&description),
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Object(entries) if entries.is_empty() => "none".to_owned(),
            value => format!("`{}`", flow(value)),
        };
        Field {
            path: shown(path),
            values: self.values(schema, DEPTH_MAX) + &unit,
            is_required,
            default,
            example: self.example(path, &full, &description),
            meaning: description + &self.choices(schema),
        }
    }

    /// Returns the type of `schema` with its range.
    fn values(&self, schema: &Value, depth: usize) -> String {
        if is_reference(schema) {
            return "[secret reference](#secret-reference)".to_owned();
        }
        let schema = self.resolved(schema);
        if depth == 0 {
            return "object".to_owned();
        }
        if let Some(alternatives) = alternatives(&schema) {
            let is_other = |schema: &&Value| {
                schema.get("const").is_none() && schema["properties"].as_object().is_none()
            };
            let others = alternatives.iter().filter(is_other);
            let others = others.map(|schema| self.values(schema, depth - 1));
            let tags = tagged(&schema).into_iter().map(|(name, ..)| format!("{{{name}: …}}"));
            let words = constants(&schema).into_iter().chain(tags);
            let words: Vec<_> = words.map(|word| format!("`{word}`")).collect();
            let one_of = (!words.is_empty()).then(|| match words.as_slice() {
                [only] => only.clone(),
                words => format!("one of {}", words.join(", ")),
            });
            return others.chain(one_of).collect::<Vec<_>>().join(" or ");
        }
        let words = constants(&schema);
        if !words.is_empty() {
            return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        }
        if schema["items"].is_object() {
            let least = schema["minItems"].as_u64().filter(|least| *least > 0);
            let least = least.map_or(String::new(), |least| format!(", at least {least}"));
            return format!("list of {}{least}", self.values(&schema["items"], depth - 1));
        }
        if let Some(values) = map_values(&schema) {
            return format!("map of {}", self.values(values, depth - 1));
        }
        let types = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect::<Vec<_>>(),
        };
        let mut text = if types.is_empty() { "any".to_owned() } else { types.join(" or ") };
        let range = match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
            (Some(least), Some(most)) => format!(", {least} to {most}"),
            (Some(least), None) => format!(", {least} or more"),
            (None, Some(most)) => format!(", at most {most}"),
            (None, None) => String::new(),
        };
        text += &range;
        if let Some(pattern) = schema["pattern"].as_str() {
            let _ = write!(text, ", pattern `{pattern}`");
        }
        text
    }

    /// Returns the meaning of each value of a closed list, as sentences.
    fn choices(&self, schema: &Value) -> String {
        let schema = self.resolved(schema);
        let schema =
            if schema["items"].is_object() { self.resolved(&schema["items"]) } else { schema };
        let Some(alternatives) = alternatives(&schema) else { return String::new() };
        let meaning = |schema: &Value| {
            let word = schema["const"].as_str()?;
            let meaning = schema["description"].as_str()?;
            Some(format!(" `{word}`: {}", one_line(meaning)))
        };
        alternatives.iter().filter_map(meaning).collect()
    }

    /// Returns a valid value of the field.
    fn example(&self, path: &[String], schema: &Value, description: &str) -> String {
        let code = |value: &Value| format!("`{}`", flow(value));
        let values = examples::at(self.examples, self.kind, path);
        let short = values.iter().filter(|value| !is_empty(value)).map(code);
        if let Some(value) = short.into_iter().find(|text| text.len() <= EXAMPLE_LETTERS_MAX) {
            return value;
        }
        let quoted = description.split("for example `").nth(1);
        if let Some(value) = quoted.and_then(|rest| rest.split('`').next()) {
            return format!("`{value}`");
        }
        if let Some(word) = constants(schema).first() {
            return format!("`{word}`");
        }
        if schema["type"] == "boolean" {
            return format!("`{}`", schema["default"] != true);
        }
        let (inner, schema) = self.inner(path.to_vec(), schema);
        let has_table = schema["properties"].is_object() || !tagged(&schema).is_empty();
        if has_table { format!("[table](#{})", anchor(&shown(&inner))) } else { String::new() }
    }
}

/// Whether `schema` refers to a secret.
fn is_reference(schema: &Value) -> bool {
    schema["$ref"] == "#/$defs/Reference"
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())
}

/// Returns the fields of which exactly one is written: name, schema, and `false`, because none is required.
fn tagged(schema: &Value) -> Vec<(String, Value, bool)> {
    let fields = alternatives(schema).into_iter().flatten().filter_map(|alternative| {
        let (name, field) = alternative["properties"].as_object()?.iter().next()?;
        let mut field = field.clone();
        if let (Some(entries), Some(meaning)) =
            (field.as_object_mut(), alternative.get("description"))
        {
            entries.insert("description".to_owned(), meaning.clone());
        }
        Some((name.clone(), field, false))
    });
    fields.collect()
}

/// Returns the words of a closed list.
fn constants(schema: &Value) -> Vec<String> {
    let own = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
    let each = alternatives(schema).into_iter().flatten().filter_map(|schema| schema.get("const"));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    own.chain(each).map(text).collect()
}

/// Returns the schema of the values of a map.
fn map_values(schema: &Value) -> Option<&Value> {
    let patterns = schema["patternProperties"].as_object();
    let values = patterns.and_then(|patterns| patterns.values().next());
    values.or_else(|| schema.get("additionalProperties").filter(|values| values.is_object()))
}

/// Returns the default that a description states in parentheses.
fn stated_default(description: &str) -> String {
    let stated = description.split("(default").nth(1);
    let stated = stated.and_then(|rest| rest.split(')').next()).unwrap_or_default();
    stated.trim_start_matches(':').trim().to_owned()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        value => value.is_null(),
    }
}

/// Returns a value as YAML in one line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text)
            if text.contains([':', ',', '{', '[', ' ', '#']) && !text.contains("://") =>
        {
            format!("\"{text}\"")
        }
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(entries) => {
            let entries = entries.iter().map(|(name, value)| format!("{name}: {}", flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

/// Returns a path as people write it: `spec.pools[].name`, `spec.generations.<name>`.
fn shown(path: &[String]) -> String {
    path.iter().fold(String::new(), |text, step| match step.as_str() {
        "[]" => text + "[]",
        "<>" => text + ".<name>",
        step if text.is_empty() => step.to_owned(),
        step => text + "." + step,
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the anchor that forges derive from a heading.
fn anchor(heading: &str) -> String {
    let letters = heading.to_lowercase();
    letters.chars().filter(|letter| letter.is_alphanumeric() || *letter == '-').collect()
}

/// Adds the table of a section. A nested object has a heading and a description of its own.
fn table(page: &mut String, section: &Section, is_declared: bool) {
    if section.path.contains(['.', '[']) {
        let _ = write!(page, "\n### `{}`\n{}\n", section.path, section.meaning);
    }
    let _ = if is_declared {
        write!(page, "\n| field | values | default | meaning | example |\n|---|---|---|---|---|\n")
    } else {
        write!(page, "\n| field | values | meaning |\n|---|---|---|\n")
    };
    let cell = |text: &str| text.replace('|', "\\|");
    for field in &section.fields {
        let (path, values, meaning) = (&field.path, cell(&field.values), cell(&field.meaning));
        let name = path.rsplit('.').next().unwrap_or(path);
        let default = if field.is_required { "required" } else { &field.default };
        let _ = if is_declared {
            let (default, example) = (cell(default), cell(&field.example));
            writeln!(page, "| `{name}` | {values} | {default} | {meaning} | {example} |")
        } else {
            writeln!(page, "| `{name}` | {values} | {meaning} |")
        };
    }
}

/// Returns the section about references to secrets.
fn secret_reference(schema: &Value) -> String {
    let mut page = "\n## Secret reference\nA document refers to a secret in one of these forms, and never holds \
                    the secret itself.\n\n| form | meaning |\n|---|---|\n"
        .to_owned();
    for form in alternatives(schema).into_iter().flatten() {
        let fields = form["properties"].as_object().into_iter().flatten();
        let fields: Vec<_> = fields.map(|(name, _)| format!("{name}: …")).collect();
        let meaning = one_line(form["description"].as_str().unwrap_or_default());
        let _ = writeln!(page, "| `{{{}}}` | {meaning} |", fields.join(", "));
    }
    page
}
