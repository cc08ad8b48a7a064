//! The words of this repository, held against what is there: every page says what it is, what it
//! names exists, and each of its commands is either run by a test or marked as not run.

mod hazards;
mod pages;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use pages::blocks;
use repository_tests::root;

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// The fields of every page, and those of a decision.
const PAGE: [&str; 3] = ["title", "summary", "date"];
const DECISION: [&str; 6] = ["id", "title", "status", "superseded_by", "date", "confirmed_by"];

/// What may be fenced and is never a command.
const DATA: [&str; 4] = ["text", "yaml", "json", "toml"];

struct Page {
    /// From the root of the repository.
    path: String,
    text: String,
    fields: BTreeMap<String, String>,
}

impl Page {
    fn is_decision(&self) -> bool {
        self.path.starts_with("knowledge/decisions/")
    }
}

/// Every page below `knowledge/`.
fn knowledge() -> Test<Vec<Page>> {
    let (mut pages, mut folders) = (Vec::new(), vec![root().join("knowledge")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "md") {
                let text = fs::read_to_string(&path)?;
                let path = path.strip_prefix(root())?.display().to_string();
                pages.push(Page { fields: fields(&text), path, text });
            }
        }
    }
    assert!(pages.len() > 15, "the pages are where they are looked for: {}", pages.len());
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pages)
}

/// The front matter: `key: value`, without what a comment says.
fn fields(text: &str) -> BTreeMap<String, String> {
    let front = text.strip_prefix("---\n").and_then(|it| it.split_once("\n---\n"));
    let lines = front.map_or("", |it| it.0).lines();
    let field = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        let value = value.split(" # ").next().unwrap_or_default().trim();
        Some((key.to_owned(), value.to_owned()))
    };
    lines.filter_map(field).collect()
}

/// What stands between two backticks, line by line, outside of fenced blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The paragraph that ends right above `line`, counted from 1.
fn paragraph_above(text: &str, line: usize) -> String {
    let above: Vec<_> = text.lines().take(line - 1).collect();
    let above = above.iter().rev().skip_while(|it| it.is_empty()).take_while(|it| !it.is_empty());
    let mut paragraph: Vec<_> = above.copied().collect();
    paragraph.reverse();
    paragraph.join(" ")
}

fn none(mistakes: &[String]) {
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
}

#[test]
fn every_page_says_what_it_is() -> Test {
    let mut mistakes = Vec::new();
    for page in knowledge()? {
        let wanted = if page.is_decision() { &DECISION[..] } else { &PAGE[..] };
        for field in wanted {
            if page.fields.get(*field).is_none_or(String::is_empty) {
                mistakes.push(format!("{}: its front matter lacks `{field}`", page.path));
            }
        }
        let date = page.fields.get("date").map_or("", String::as_str);
        let numbers: Vec<_> = date.split('-').filter_map(|it| it.parse::<u16>().ok()).collect();
        if !matches!(numbers[..], [2026..=2099, 1..=12, 1..=31]) || date.len() != 10 {
            mistakes.push(format!("{}: its date is no day: {date}", page.path));
        }
    }
    none(&mistakes);
    Ok(())
}

#[test]
fn every_decision_names_the_check_that_would_tell_if_it_were_not_so() -> Test {
    let (mut mistakes, mut ids) = (Vec::new(), Vec::new());
    for page in knowledge()?.into_iter().filter(Page::is_decision) {
        let field = |name: &str| page.fields.get(name).map_or("", String::as_str);
        let number = page.path.rsplit('/').next().and_then(|it| it.split('-').next());
        let number = number.and_then(|it| it.parse::<u16>().ok());
        if number != field("id").parse().ok() {
            mistakes.push(format!("{}: its id is {}", page.path, field("id")));
        }
        ids.extend(number);
        if !["proposed", "accepted", "superseded"].contains(&field("status")) {
            mistakes.push(format!("{}: a status of its own: {}", page.path, field("status")));
        }
        for check in field("confirmed_by").split(", ") {
            if !root().join(check).is_file() {
                mistakes.push(format!("{}: no such check: {check}", page.path));
            }
        }
        for heading in ["## Context", "## Decision", "## Consequences"] {
            if !page.text.lines().any(|it| it == heading) {
                mistakes.push(format!("{}: no `{heading}`", page.path));
            }
        }
    }
    ids.sort_unstable();
    assert!(ids.windows(2).all(|it| it[0] < it[1]), "no number is given twice: {ids:?}");
    none(&mistakes);
    Ok(())
}

#[test]
fn every_command_is_run_by_a_test_or_says_why_not() -> Test {
    let mut mistakes = Vec::new();
    for page in knowledge()? {
        let mut runs = false;
        for block in blocks(&page.text) {
            let mut mistake = |what: &str| {
                mistakes.push(format!("{}:{}: {what}", page.path, block.line));
            };
            match block.info.as_str() {
                "sh" => runs = true,
                "sh not-run" => {
                    let above = paragraph_above(&page.text, block.line).to_lowercase();
                    if !above.contains("not run") {
                        mistake("the sentence above does not say why it is not run");
                    }
                }
                data if DATA.contains(&data) => {
                    if block.text.lines().any(|it| it.trim_start().starts_with("$ ")) {
                        mistake("commands, fenced as something that is no command");
                    }
                }
                other => mistake(&format!("fenced as `{other}`: nobody knows whether to run it")),
            }
        }
        for (index, lines) in page.text.lines().collect::<Vec<_>>().windows(2).enumerate() {
            if lines[0].is_empty() && lines[1].starts_with("    ") {
                let line = index + 2;
                mistakes.push(format!("{}:{line}: indented: fence it, and say how", page.path));
            }
        }
        let test = page.fields.get("tested_by");
        let named = |it: &String| -> Test<bool> {
            Ok(fs::read_to_string(root().join(it))?.contains(&format!("\"{}\"", page.path)))
        };
        match (runs, test) {
            (true, Some(test)) if named(test)? => {}
            (true, Some(test)) => {
                mistakes.push(format!("{}: {test} knows nothing of it", page.path));
            }
            (true, None) => mistakes.push(format!("{}: no `tested_by`", page.path)),
            (false, Some(_)) => mistakes.push(format!("{}: nothing of it is run", page.path)),
            (false, None) => {}
        }
    }
    none(&mistakes);
    Ok(())
}

#[test]
fn every_link_leads_somewhere() -> Test {
    let mut pages: Vec<_> = knowledge()?.into_iter().map(|it| (it.path, it.text)).collect();
    pages.push(("README.md".to_owned(), fs::read_to_string(root().join("README.md"))?));
    let mut mistakes = Vec::new();
    for (path, text) in pages {
        let targets = text.split("](").skip(1).filter_map(|it| it.split(')').next());
        for target in targets.filter(|it| !it.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let beside = root().join(&path);
            let beside = match file {
                "" => Some(beside),
                file => beside.parent().map(|it| it.join(file)),
            };
            let there = beside.filter(|it| it.exists());
            let there = there.filter(|it| heading.is_empty() || has_heading(it, heading));
            if there.is_none() {
                mistakes.push(format!("{path}: leads nowhere: {target}"));
            }
        }
    }
    none(&mistakes);
    Ok(())
}

/// Whether a heading of the page is called as forges call it in links.
fn has_heading(page: &Path, anchor: &str) -> bool {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings = text.lines().filter(|it| it.starts_with('#'));
    let name = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|it| it.is_alphanumeric() || *it == '-').collect()
    };
    headings.map(name).any(|it| it == anchor)
}

#[test]
fn every_file_that_is_named_exists() -> Test {
    let tops = [
        "continuous-integration/",
        "knowledge/",
        "machines/",
        "project/",
        "sources/",
        "tasks/",
        "tools/",
    ];
    let mut mistakes = Vec::new();
    for page in knowledge()? {
        for name in quoted(&page.text) {
            let plain = !name.contains(|it: char| it.is_whitespace() || "<{*…".contains(it));
            let name = name.strip_prefix("./").unwrap_or(name);
            let ours = tops.iter().any(|it| name.starts_with(it) && name.len() > it.len());
            if plain && ours && !root().join(name).exists() {
                mistakes.push(format!("{}: no such file: {name}", page.path));
            }
        }
    }
    none(&mistakes);
    Ok(())
}

/// Beside each invariant: a file in backticks, and the names of tests in it.
#[test]
fn every_test_that_guards_an_invariant_exists() -> Test {
    let path = "knowledge/architecture.md";
    let page = fs::read_to_string(root().join(path))?;
    // A part of a story that one lab serves is a test by being called.
    let story = [
        "continuous-integration/tests/tests/lifecycle/main.rs",
        "continuous-integration/tests/tests/lifecycle/back.rs",
        "tools/flux-seed/tests/delivery.rs",
    ];
    let story = story.map(|file| fs::read_to_string(root().join(file)));
    let story = story.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let story = story.replace("(project, ", "(&project, ");
    let (mut guards, mut mistakes) = (0, Vec::new());
    for line in page.lines().filter(|it| it.starts_with('|')) {
        let mut source = None;
        for word in line.split('`').skip(1).step_by(2) {
            if word.starts_with("tools/") || word.starts_with("continuous-integration/") {
                source = Some(fs::read_to_string(root().join(word)).unwrap_or_default());
            } else if let Some(source) = &source {
                guards += 1;
                let (test, call) = (format!("fn {word}("), format!("{word}(&"));
                let is_test = source.match_indices(&test).any(|(at, _)| {
                    source[..at].lines().rev().take(4).any(|it| it.trim() == "#[test]")
                });
                let is_told = source.contains(&test) && story.contains(&call);
                if !is_test && !is_told {
                    mistakes.push(format!("{path}: no test of that name: {word}"));
                }
            }
        }
    }
    none(&mistakes);
    assert!(guards >= 20, "invariants have their tests in a table: {guards}");
    Ok(())
}

#[test]
fn every_program_tells_what_has_changed_in_it() -> Test {
    for entry in fs::read_dir(root().join("tools"))? {
        let folder = entry?.path();
        if !folder.join("src/cli.rs").exists() {
            continue;
        }
        let file = folder.join("CHANGELOG.md");
        let text = fs::read_to_string(&file).map_err(|it| format!("{}: {it}", file.display()))?;
        let version = concat!("\n## [", env!("CARGO_PKG_VERSION"), "] - 20");
        assert!(text.contains(version), "{}: nothing of this version", file.display());
    }
    Ok(())
}

#[test]
fn the_page_of_hazards_is_what_the_tests_say() -> Test {
    let page = root().join("continuous-integration/hazards.md");
    snapbox::assert_data_eq!(hazards::page()?, snapbox::Data::read_from(&page, None).raw());
    Ok(())
}
