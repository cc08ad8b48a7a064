//! Reads and parses the inputs. No other module reads documents.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_saphyr::{MessageFormatter as _, UserMessageFormatter};

use crate::document::{Document, Origin};
use crate::kind;
use crate::validation::ValidationError;

/// Largest input in bytes; a larger one is an error.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Extensions of the files that are read in a directory, in upper or lower case.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Deepest nesting of directories below an input.
const DEPTH_MAX: usize = 32;

/// Reads `inputs` to their end; `-` and no input at all mean standard input.
pub(crate) fn read(inputs: &[PathBuf]) -> (Vec<Document>, Vec<ValidationError>) {
    let stdin = [PathBuf::from("-")];
    let inputs = if inputs.is_empty() { &stdin } else { inputs };
    let (mut documents, mut mistakes) = (Vec::new(), Vec::new());
    for input in inputs {
        let before = (documents.len(), mistakes.len());
        let (name, nothing) = if input.is_dir() {
            folder(input, 0, &mut documents, &mut mistakes);
            let nothing = "no document of apiVersion holistic/v1alpha1 is in this directory: its files \
                           *.yaml, *.yml and *.json are read, at any depth";
            (input.display().to_string(), nothing)
        } else {
            let is_stdin = input.as_os_str() == "-";
            let name = if is_stdin { "<stdin>".to_owned() } else { input.display().to_string() };
            let text =
                if is_stdin { limited(io::stdin()) } else { File::open(input).and_then(limited) };
            match text {
                Ok(text) => parse(&name, &text, |_| true, &mut documents, &mut mistakes),
                Err(error) => mistakes.push(ValidationError::in_input(&name, &error.to_string())),
            }
            let nothing = if is_stdin {
                "no document: did the previous program of the pipe fail?"
            } else {
                "no document is in this file"
            };
            (name, nothing)
        };
        // Without this error, a failed program earlier in the pipe would look like success: nothing to do.
        if before == (documents.len(), mistakes.len()) {
            mistakes.push(ValidationError::in_input(&name, nothing));
        }
    }
    (documents, mistakes)
}

/// Reads our documents below `folder`, at any depth. Other files are not parsed, because a manifest, a
/// patch or an encrypted file need not be valid YAML.
fn folder(
    folder: &Path,
    depth: usize,
    documents: &mut Vec<Document>,
    mistakes: &mut Vec<ValidationError>,
) {
    let name = folder.display().to_string();
    let entries = match fs::read_dir(folder) {
        Ok(entries) if depth <= DEPTH_MAX => entries,
        Ok(_) => {
            return mistakes.push(ValidationError::in_input(&name, "directories nest too deep"));
        }
        Err(error) => return mistakes.push(ValidationError::in_input(&name, &error.to_string())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry),
            Err(error) => mistakes.push(ValidationError::in_input(&name, &error.to_string())),
        }
    }
    paths.sort_by_key(fs::DirEntry::file_name);
    for entry in paths {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            self::folder(&path, depth + 1, documents, mistakes);
        } else if EXTENSIONS.iter().any(|extension| has_extension(&path, extension)) {
            file(&path, documents, mistakes);
        }
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Reads our documents in a file of a directory.
fn file(path: &Path, documents: &mut Vec<Document>, mistakes: &mut Vec<ValidationError>) {
    let name = path.display().to_string();
    let text = match File::open(path).and_then(limited) {
        Ok(text) if kind::may_be_meant_for_us(&text) => text,
        Ok(_) => return,
        Err(_) if has_extension(path, "json") => return, // it may be binary
        Err(error) => return mistakes.push(ValidationError::in_input(&name, &error.to_string())),
    };
    let mut found = Vec::new();
    // A part that is not one of our documents may be a values file or a patch.
    parse(&name, &text, kind::may_be_meant_for_us, &mut found, mistakes);
    documents.extend(found.into_iter().filter(|document| kind::is_meant_for_us(&document.value)));
}

fn limited(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    match input.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)? as u64 {
        ..=INPUT_BYTES_MAX => Ok(text),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// Parses `text`. A part that is not a document is an error only when `is_meant` holds for its text.
fn parse(
    name: &str,
    text: &str,
    is_meant: impl Fn(&str) -> bool,
    documents: &mut Vec<Document>,
    mistakes: &mut Vec<ValidationError>,
) {
    for (above, part) in parts(text) {
        let origin = Origin { name: name.to_owned(), above, text: part.to_owned() };
        match values(part) {
            Ok(values) => {
                for value in values {
                    match unfit(&value) {
                        Some(_) if !is_meant(part) => {}
                        Some(why) => mistakes.push(ValidationError::in_text(&origin, (1, 1), why)),
                        None => documents.push(Document {
                            origin: origin.clone(),
                            override_origin: None,
                            value,
                        }),
                    }
                }
            }
            Err(error) => {
                let number = |number: u64| usize::try_from(number).unwrap_or(1);
                let position = error.location().map(|at| (number(at.line()), number(at.column())));
                let mut message = UserMessageFormatter.format_message(&error).into_owned();
                if message.contains("`apiVersion`") {
                    message.push_str(": begin every document with `---`");
                }
                let position = position.unwrap_or((1, 1));
                mistakes.push(ValidationError::in_text(&origin, position, &message));
            }
        }
    }
}

fn values(part: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        strict_booleans: true, // `no` is a string, as in YAML 1.2
        leading_zero_numbers_as_strings: true, // 0644 is not 644
        with_snippet: false, // a neighbouring line may hold a secret
    };
    match serde_saphyr::from_multiple_with_options(part, options) {
        Err(error) if !matches!(error, serde_saphyr::Error::DuplicateMappingKey { .. }) => {
            // Measured: YAML rejects some valid JSON, for example U+007F in a string and keys of more
            // than 1,024 characters.
            serde_json::from_str(part).map(|value| vec![value]).or(Err(error))
        }
        values => values,
    }
}

/// Splits `text` into documents, and returns each with the number of lines above it. A document begins
/// at `---`, or at `{` in the first column, because each line of a program's output is a JSON object.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut above, mut start, mut end) = (Vec::new(), 0, 0, 0);
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        if line.starts_with('{') || line.starts_with("--- ") || line.trim_end() == "---" {
            parts.push((above, &text[start..end]));
            (above, start) = (number, end);
        }
        end += line.len();
    }
    parts.push((above, &text[start..]));
    parts
}

/// Returns the reason why `value` cannot be a document of the stream.
fn unfit(value: &Value) -> Option<&'static str> {
    if !value["apiVersion"].is_string() || !value["kind"].is_string() {
        Some("a document is an object with `apiVersion` and `kind`")
    } else if is_rounded(value) {
        Some("a number is too large to be passed on unchanged: quote it")
    } else {
        None
    }
}

/// Whether a number in `value` was rounded: an integer beyond 64 bits is parsed as a float.
fn is_rounded(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|float| float.abs() > 9e15)
        }
        Value::Array(items) => items.iter().any(is_rounded),
        Value::Object(entries) => entries.values().any(is_rounded),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
