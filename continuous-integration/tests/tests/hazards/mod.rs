//! The page of hazards, generated from the comments above the tests that guard against them:
//!
//! ```text
//! // hazard: A sentence that says what could happen.
//! // class: The class of faults to which it belongs.
//! // members: Other members of the class that were found.
//! // now: What a user sees today.
//! #[test]
//! fn name_of_the_test() { … }
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::{Test, root};

const HEAD: &str = "\
# Hazards
Ways in which data was lost, a secret leaked or a result was falsely called proven, each with the test that fails when it happens
again. This page is generated from the `// hazard:` comments above those tests: `SNAPSHOTS=overwrite cargo nextest run -p repository-tests --test words`.

| hazard | class | other members found | test | what a user sees now |
|---|---|---|---|---|
";

/// One hazard, as the comment above its test tells it.
#[derive(Debug, Default)]
struct Hazard {
    event: String,
    class: String,
    members: String,
    now: String,
}

impl Hazard {
    fn field(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "hazard" => Some(&mut self.event),
            "class" => Some(&mut self.class),
            "members" => Some(&mut self.members),
            "now" => Some(&mut self.now),
            _ => None,
        }
    }

    fn row(&self, program: &str, test: &str) -> String {
        let cell = |text: &str| text.trim().replace('|', "\\|");
        let Self { event, class, members, now } = self;
        let [event, class, members, now] = [event, class, members, now].map(|text| cell(text));
        format!("| {program}: {event} | {class} | {members} | `{test}` | {now} |\n")
    }
}

/// The whole page.
pub(crate) fn page() -> Test<String> {
    let mut files = Vec::new();
    for folder in ["continuous-integration/tests", "tools"] {
        rust_files(&root().join(folder), &mut files)?;
    }
    files.sort();
    let mut page = HEAD.to_owned();
    for file in files {
        let krate = krate(file.strip_prefix(root())?);
        page.extend(table_rows(&krate, &fs::read_to_string(&file)?));
    }
    Ok(page)
}

/// The crate of a file, by its folder: `tools/NAME`, `tools/shared/NAME`, `tools/emulators/NAME`.
fn krate(file: &Path) -> String {
    let parts: Vec<_> = file.iter().map(|part| part.to_string_lossy()).collect();
    match parts.as_slice() {
        [tools, shared, name, ..] if tools == "tools" && shared == "shared" => name.to_string(),
        [tools, emulators, name, ..] if tools == "tools" && emulators == "emulators" => {
            format!("emulator of {name}")
        }
        [tools, name, ..] if tools == "tools" => name.to_string(),
        _ => "repository".to_owned(),
    }
}

fn table_rows(program: &str, text: &str) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), Vec::<Hazard>::new());
    let mut field = "";
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("// ") {
            let (name, rest) = comment.split_once(": ").unwrap_or_default();
            if name == "hazard" {
                open.push(Hazard::default());
            }
            let Some(hazard) = open.last_mut() else { continue };
            let (name, rest) = match name {
                "hazard" | "class" | "members" | "now" => (name, rest),
                _ => (field, comment),
            };
            field = name;
            if let Some(text) = hazard.field(name) {
                *text = format!("{text} {rest}");
            }
        } else if let Some(rest) = line
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub(crate) ")
            .strip_prefix("fn ")
            .or_else(|| line.strip_prefix("async fn "))
        {
            let function = rest.split('(').next().unwrap_or_default();
            for hazard in open.drain(..) {
                let cells = [&hazard.event, &hazard.class, &hazard.members, &hazard.now];
                assert!(cells.iter().all(|text| !text.trim().is_empty()), "{function}: {hazard:?}");
                found.push(hazard.row(program, function));
            }
            field = "";
        }
    }
    assert!(open.is_empty(), "{program}: a hazard without a test: {open:?}");
    found
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Test {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("hazards/mod.rs")
        {
            files.push(path);
        }
    }
    Ok(())
}
