//! The reference of all kinds: a page per kind and one schema for a stream, both generated from the schemas
//! that the programs publish.

mod examples;
#[path = "../project/oracle.rs"]
mod oracle;
mod page;
#[path = "../project/schema.rs"]
mod schema;
mod stream;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use repository_tests::{OWNERS, programs, root};
use serde_json::Value;

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// Start of the comment that names the schema of a file to an editor
/// (<https://github.com/redhat-developer/yaml-language-server#using-inlined-schema>).
const MODELINE: &str = "# yaml-language-server: $schema=";

/// Returns the schema that the crate in `folder` publishes.
fn schema_of(folder: &str) -> Test<Value> {
    let path = root().join("tools").join(folder).join("schema.json");
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// Returns every file below `folder` whose name ends in `.yaml`.
fn yaml_files(folder: &Path) -> Test<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(yaml_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the documents of our kinds in a file.
fn documents(path: &Path) -> Test<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    if !text.contains("apiVersion: holistic/") {
        return Ok(Vec::new());
    }
    let all: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    Ok(all.into_iter().filter(|document| document["apiVersion"] == "holistic/v1alpha1").collect())
}

#[test]
fn each_page_of_the_reference_matches_the_schema_of_its_kind() -> Test {
    let examples = examples::all()?;
    for (kind, folder) in OWNERS {
        let page = root().join(format!("knowledge/reference/{}.md", kind.to_lowercase()));
        let written = page::page(kind, folder, &schema_of(folder)?, &examples)?;
        snapbox::assert_data_eq!(written, snapbox::Data::read_from(&page, None).raw());
    }
    Ok(())
}

#[test]
fn every_field_that_people_write_has_a_meaning_and_an_example() -> Test {
    let examples = examples::all()?;
    let mut incomplete = Vec::new();
    for (kind, folder) in OWNERS {
        for field in page::fields(kind, &schema_of(folder)?, &examples) {
            if field.meaning.is_empty() || field.example.is_empty() {
                incomplete.push(format!("{kind} {}: {field:?}", field.path));
            }
        }
    }
    assert_eq!(incomplete, [""; 0], "add a doc comment, or a document to reference/examples.yaml");
    Ok(())
}

#[test]
fn every_example_is_valid_for_the_schema_of_its_kind_and_of_a_stream() -> Test {
    let examples = examples::all()?;
    let lines: Vec<String> = examples.iter().map(Value::to_string).collect();
    schema::every_document_is_valid(&lines.join("\n"))?;
    let stream = stream::schema()?;
    for example in &examples {
        assert_eq!(schema::violations(&stream, &stream, example, ""), [""; 0]);
    }
    let kinds: BTreeSet<_> =
        examples.iter().filter_map(|example| example["kind"].as_str()).collect();
    assert_eq!(kinds, OWNERS.map(|(kind, _)| kind).into());
    Ok(())
}

#[test]
fn the_schema_of_a_stream_rejects_an_unknown_kind_a_typo_and_a_wrong_value() -> Test {
    let stream = stream::schema()?;
    for wrong in wrong_documents()? {
        assert_ne!(schema::violations(&stream, &stream, &wrong, ""), [""; 0], "{wrong}");
    }
    Ok(())
}

/// Returns a valid document with one change each: an unknown kind, another version, a typo, and a wrong type.
fn wrong_documents() -> Test<Vec<Value>> {
    let changes: [fn(&mut Value); 4] = [
        |document| document["kind"] = "Respository".into(),
        |document| document["apiVersion"] = "holistic/v1".into(),
        |document| document["spec"]["sizee"] = 1.into(),
        |document| document["metadata"]["name"] = 1.into(),
    ];
    let right = &examples::all()?[0];
    let wrong = changes.map(|change| {
        let mut wrong = right.clone();
        change(&mut wrong);
        wrong
    });
    Ok(wrong.into())
}

// The test `lifecycle` does the same with every document that the programs write.
#[test]
fn another_validator_accepts_every_document_of_this_repository_and_of_the_templates() -> Test {
    assert_eq!(oracle::violations(&examples::all()?)?, [""; 0]);
    Ok(())
}

#[test]
fn another_validator_rejects_what_our_own_rejects_and_also_checks_patterns() -> Test {
    let name = |text: &str| {
        let mut document = examples::all()?.swap_remove(0);
        document["metadata"]["name"] = text.into();
        Test::Ok(document)
    };
    assert_eq!(oracle::violations(&[name("a-name")?])?, [""; 0]);
    for wrong in wrong_documents()?.into_iter().chain([name("Not a name")?]) {
        assert_ne!(oracle::violations(std::slice::from_ref(&wrong))?, [""; 0], "{wrong}");
    }
    Ok(())
}

#[test]
fn the_schema_of_a_stream_matches_the_schemas_of_the_kinds_in_every_copy() -> Test {
    let written = serde_json::to_string_pretty(&stream::schema()?)? + "\n";
    for copy in [stream::PATH, "templates/project/schema.json"] {
        let copy = snapbox::Data::read_from(&root().join(copy), None);
        snapbox::assert_data_eq!(written.clone(), copy.raw());
    }
    Ok(())
}

#[test]
fn every_schema_has_its_own_address_and_a_title_and_shows_optional_fields_without_null() -> Test {
    let mut published = vec![(stream::PATH.to_owned(), "Document".to_owned(), stream::schema()?)];
    for (kind, folder) in OWNERS {
        let path = format!("tools/{folder}/schema.json");
        published.push((path, kind.to_owned(), schema_of(folder)?));
    }
    for (path, title, schema) in published {
        assert_eq!(schema["$id"], format!("{}/{path}", stream::REPOSITORY));
        assert_eq!(schema["title"], title, "{path}");
        assert_eq!(optional_nulls(&schema), [""; 0], "{path}");
    }
    Ok(())
}

// The same holds for `verify`, `apply` and `destroy`, because every verb reads the stream in the same way.
#[test]
fn every_program_rejects_a_misspelt_kind_and_suggests_the_right_one() -> Test {
    let typo = documents(&root().join("project/repository.yaml"))?[0]
        .to_string()
        .replace("\"Repository\"", "\"Respository\"");
    for program in
        OWNERS.iter().map(|(_, program)| *program).filter(|program| !program.contains('/'))
    {
        let mut command = Command::new(programs().join(program));
        let output = testing::run::feed(command.arg("plan"), typo.as_bytes())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{program}: {said}");
        assert!(said.contains("<stdin>:1:"), "{program} names the position: {said}");
        assert!(said.contains("unknown kind: did you mean Repository?"), "{program}: {said}");
        assert!(output.stdout.is_empty(), "{program}");
    }
    Ok(())
}

/// Returns the optional fields of `schema` whose type contains `null` and another type.
fn optional_nulls(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let types = field["type"].as_array().cloned().unwrap_or_default();
        let alternatives = field["anyOf"].as_array().cloned().unwrap_or_default();
        let is_null = types.iter().any(|name| name == "null")
            || alternatives.iter().any(|schema| schema["type"] == "null");
        if is_null && !required.iter().any(|required| required == name.as_str()) {
            found.push(name.clone());
        }
    }
    let children: Vec<&Value> = match schema {
        Value::Object(entries) => entries.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    found.extend(children.into_iter().flat_map(optional_nulls));
    found
}

#[test]
fn finder_of_null_reports_each_form_and_no_required_field() {
    let nullable = serde_json::json!({"type": ["string", "null"]});
    let either = serde_json::json!({"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]});
    let inner = serde_json::json!({"properties": {"a": nullable, "b": either}, "required": ["b"]});
    assert_eq!(optional_nulls(&serde_json::json!({"$defs": {"A": inner}})), ["a"]);
    assert_eq!(optional_nulls(&serde_json::json!({"properties": {"b": either}})), ["b"]);
}

/// A new project has the files of `templates/project`. The other templates are made for a folder of a folder
/// of the project, for example `machines/staging`.
#[test]
fn every_document_names_a_schema_that_exists_and_that_accepts_it() -> Test {
    let root = root().canonicalize()?;
    let (mut files, templates) = (Vec::new(), root.join("templates"));
    for folder in ["templates", "project", "sources", "machines", "deployments", "tools/images"] {
        files.extend(yaml_files(&root.join(folder))?);
    }
    let mut checked = 0;
    for file in files {
        let documents = documents(&file)?;
        if documents.is_empty() {
            continue;
        }
        checked += 1;
        let text = fs::read_to_string(&file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(MODELINE));
        let target = line.ok_or_else(|| format!("{}: no line `{MODELINE}…`", file.display()))?;
        let folder = file.parent().ok_or("no folder")?;
        let placed = match folder.strip_prefix(&templates) {
            Ok(part) if !part.starts_with("project") => templates.join("project/part").join(part),
            _ => folder.to_owned(),
        };
        let mut path = PathBuf::new();
        for step in placed.join(target).components() {
            match step.as_os_str().to_str() {
                Some("..") => drop(path.pop()),
                _ => path.push(step),
            }
        }
        let is_in_project = path.starts_with(templates.join("project"));
        assert!(is_in_project || !placed.starts_with(&templates), "{}", path.display());
        let schema: Value = serde_json::from_str(
            &fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?,
        )?;
        for document in documents {
            let violations = schema::violations(&schema, &schema, &document, "");
            assert_eq!(violations, [""; 0], "{}", file.display());
        }
    }
    assert!(checked >= 15, "{checked} files");
    Ok(())
}
