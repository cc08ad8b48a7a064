//! Checks the pages of this repository: every page has its metadata, every file and test that a page
//! names exists, and every command is either run by a test or marked as not run.

mod hazards;
mod pages;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use pages::blocks;
use repository_tests::root;

type Test<T = ()> = Result<T, Box<dyn Error>>;

/// Required front matter of every page except decisions.
const PAGE: [&str; 3] = ["title", "summary", "date"];
/// Required front matter of a decision.
const DECISION: [&str; 6] = ["id", "title", "status", "superseded_by", "date", "confirmed_by"];

/// Info strings of fenced blocks that hold no commands.
const DATA: [&str; 4] = ["text", "yaml", "json", "toml"];

struct Page {
    /// Path relative to the root of the repository.
    path: String,
    text: String,
    fields: BTreeMap<String, String>,
}

impl Page {
    fn is_decision(&self) -> bool {
        self.path.starts_with("knowledge/decisions/")
    }
}

/// Returns every page below `knowledge/`, sorted by path.
fn knowledge() -> Test<Vec<Page>> {
    let (mut pages, mut folders) = (Vec::new(), vec![root().join("knowledge")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path)?;
                let path = path.strip_prefix(root())?.display().to_string();
                pages.push(Page { fields: fields(&text), path, text });
            }
        }
    }
    assert!(pages.len() > 15, "knowledge/ has more than 15 pages: {}", pages.len());
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pages)
}

/// Returns the fields `key: value` of the front matter, without comments.
fn fields(text: &str) -> BTreeMap<String, String> {
    let front = text.strip_prefix("---\n").and_then(|text| text.split_once("\n---\n"));
    let lines = front.map_or("", |(front, _)| front).lines();
    let field = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        let value = value.split(" # ").next().unwrap_or_default().trim();
        Some((key.to_owned(), value.to_owned()))
    };
    lines.filter_map(field).collect()
}

/// Returns the texts between two backticks of one line, outside fenced blocks.
fn quoted(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Returns the paragraph that ends right above `line`, counted from 1.
fn paragraph_above(text: &str, line: usize) -> String {
    let above: Vec<_> = text.lines().take(line - 1).collect();
    let above =
        above.iter().rev().skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
    let mut paragraph: Vec<_> = above.copied().collect();
    paragraph.reverse();
    paragraph.join(" ")
}

/// Panics with the list of mistakes unless the list is empty.
fn assert_none(mistakes: &[String]) {
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
}

#[test]
fn every_page_has_its_front_matter() -> Test {
    let mut mistakes = Vec::new();
    for page in knowledge()? {
        let wanted = if page.is_decision() { &DECISION[..] } else { &PAGE[..] };
        for field in wanted {
            if page.fields.get(*field).is_none_or(String::is_empty) {
                mistakes.push(format!("{}: its front matter lacks `{field}`", page.path));
            }
        }
        let date = page.fields.get("date").map_or("", String::as_str);
        let numbers: Vec<_> = date.split('-').filter_map(|part| part.parse::<u16>().ok()).collect();
        if !matches!(numbers[..], [2026..=2099, 1..=12, 1..=31]) || date.len() != 10 {
            mistakes.push(format!("{}: invalid date: {date}", page.path));
        }
    }
    assert_none(&mistakes);
    Ok(())
}

#[test]
fn every_decision_names_a_check_that_exists_and_has_its_headings() -> Test {
    let (mut mistakes, mut ids) = (Vec::new(), Vec::new());
    for page in knowledge()?.into_iter().filter(Page::is_decision) {
        let field = |name: &str| page.fields.get(name).map_or("", String::as_str);
        let number = page.path.rsplit('/').next().and_then(|name| name.split('-').next());
        let number = number.and_then(|digits| digits.parse::<u16>().ok());
        if number != field("id").parse().ok() {
            mistakes.push(format!(
                "{}: the id differs from the file name: {}",
                page.path,
                field("id")
            ));
        }
        ids.extend(number);
        if !["proposed", "accepted", "superseded"].contains(&field("status")) {
            mistakes.push(format!("{}: unknown status: {}", page.path, field("status")));
        }
        for check in field("confirmed_by").split(", ") {
            if !root().join(check).is_file() {
                mistakes.push(format!("{}: no such check: {check}", page.path));
            }
        }
        for heading in ["## Context", "## Decision", "## Consequences"] {
            if !page.text.lines().any(|line| line == heading) {
                mistakes.push(format!("{}: no `{heading}`", page.path));
            }
        }
    }
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "every id is unique: {ids:?}");
    assert_none(&mistakes);
    Ok(())
}

#[test]
fn every_command_is_run_by_a_test_or_marked_with_a_reason() -> Test {
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
                        mistake(
                            "the paragraph above does not give the reason why the command is not run",
                        );
                    }
                }
                data if DATA.contains(&data) => {
                    if block.text.lines().any(|line| line.trim_start().starts_with("$ ")) {
                        mistake("the block has commands but another info string than `sh`");
                    }
                }
                other => mistake(&format!("unknown info string `{other}`")),
            }
        }
        for (index, lines) in page.text.lines().collect::<Vec<_>>().windows(2).enumerate() {
            if lines[0].is_empty() && lines[1].starts_with("    ") {
                let line = index + 2;
                mistakes.push(format!(
                    "{}:{line}: indented block: use a fence with an info string",
                    page.path
                ));
            }
        }
        let test = page.fields.get("tested_by");
        let names_page = |test: &String| -> Test<bool> {
            Ok(fs::read_to_string(root().join(test))?.contains(&format!("\"{}\"", page.path)))
        };
        match (runs, test) {
            (true, Some(test)) if names_page(test)? => {}
            (true, Some(test)) => {
                mistakes.push(format!("{}: {test} does not run this page", page.path));
            }
            (true, None) => mistakes.push(format!("{}: no `tested_by`", page.path)),
            (false, Some(_)) => {
                mistakes.push(format!("{}: `tested_by`, but no block `sh`", page.path));
            }
            (false, None) => {}
        }
    }
    assert_none(&mistakes);
    Ok(())
}

#[test]
fn every_link_points_to_an_existing_file_and_heading() -> Test {
    let mut pages: Vec<_> = knowledge()?.into_iter().map(|page| (page.path, page.text)).collect();
    for name in ["README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        pages.push((name.to_owned(), fs::read_to_string(root().join(name))?));
    }
    let mut mistakes = Vec::new();
    for (path, text) in pages {
        // A pattern in backticks may look like a link.
        let prose: String = text.lines().flat_map(|line| line.split('`').step_by(2)).collect();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let page = root().join(&path);
            let linked = match file {
                "" => Some(page),
                file => page.parent().map(|folder| folder.join(file)),
            };
            let linked = linked.filter(|file| file.exists());
            let linked = linked.filter(|file| heading.is_empty() || has_heading(file, heading));
            if linked.is_none() {
                mistakes.push(format!("{path}: the link has no target: {target}"));
            }
        }
    }
    assert_none(&mistakes);
    Ok(())
}

/// Returns whether the page has a heading with this anchor, as forges derive anchors from headings.
fn has_heading(page: &Path, anchor: &str) -> bool {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |line: &str| -> String {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|letter| letter.is_alphanumeric() || *letter == '-').collect()
    };
    headings.map(name).any(|name| name == anchor)
}

#[test]
fn every_file_that_a_page_names_exists() -> Test {
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
    let mut pages: Vec<_> = knowledge()?.into_iter().map(|page| (page.path, page.text)).collect();
    let contributing = "CONTRIBUTING.md";
    pages.push((contributing.to_owned(), fs::read_to_string(root().join(contributing))?));
    for (path, text) in pages {
        for name in quoted(&text) {
            let is_pattern = |letter: char| letter.is_whitespace() || "<{*…".contains(letter);
            let name = name.strip_prefix("./").unwrap_or(name);
            let is_ours = tops.iter().any(|top| name.starts_with(top) && name.len() > top.len());
            if !name.contains(is_pattern) && is_ours && !root().join(name).exists() {
                mistakes.push(format!("{path}: no such file: {name}"));
            }
        }
    }
    assert_none(&mistakes);
    Ok(())
}

/// Checks the tables of architecture.md: next to each invariant is a file in backticks, followed by
/// names of tests in that file.
#[test]
fn every_test_that_guards_an_invariant_exists() -> Test {
    let path = "knowledge/architecture.md";
    let (guards, mistakes) = named_tests(path, &fs::read_to_string(root().join(path))?)?;
    assert_none(&mistakes);
    assert!(guards >= 20, "architecture.md names at least 20 tests: {guards}");
    Ok(())
}

/// Checks the tables of assumptions about vendors: each row names its source and an existing test.
#[test]
fn every_test_of_an_assumption_about_a_vendor_exists() -> Test {
    let (mut tests, mut mistakes) = (0, Vec::new());
    for page in knowledge()?.iter().filter(|page| page.path.contains("/vendors/")) {
        let (found, missing) = named_tests(&page.path, &page.text)?;
        tests += found;
        mistakes.extend(missing);
        let rows = page.text.lines().skip_while(|line| !line.starts_with("| assumption |")).skip(2);
        for row in rows.take_while(|line| line.starts_with('|')) {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            if cells.len() != 3 || cells[1].is_empty() || named_tests(&page.path, row)?.0 == 0 {
                mistakes.push(format!("{}: no source or no test: {row}", page.path));
            }
        }
    }
    assert_none(&mistakes);
    assert!(tests >= 15, "the pages of vendors name at least 15 tests: {tests}");
    Ok(())
}

/// Counts the tests that the tables of a page name, and returns those that do not exist.
fn named_tests(path: &str, page: &str) -> Test<(usize, Vec<String>)> {
    // The lifecycle is one test whose parts are functions: a part counts if the test calls it.
    let story = [
        "continuous-integration/tests/tests/lifecycle/main.rs",
        "continuous-integration/tests/tests/lifecycle/back.rs",
        "tools/flux-seed/tests/delivery.rs",
    ];
    let story = story.map(|file| fs::read_to_string(root().join(file)));
    let story = story.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let story = story.replace("(project, ", "(&project, ");
    let (mut guards, mut mistakes) = (0, Vec::new());
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let mut source = None;
        for word in line.split('`').skip(1).step_by(2) {
            if word.starts_with("tools/") || word.starts_with("continuous-integration/") {
                source = Some(fs::read_to_string(root().join(word)).unwrap_or_default());
            } else if let Some(source) = &source {
                guards += 1;
                let (test, call) = (format!("fn {word}("), format!("{word}(&"));
                let is_test = source.match_indices(&test).any(|(at, _)| {
                    source[..at].lines().rev().take(4).any(|line| line.trim() == "#[test]")
                });
                let is_called = source.contains(&test) && story.contains(&call);
                if !is_test && !is_called {
                    mistakes.push(format!("{path}: no such test: {word}"));
                }
            }
        }
    }
    Ok((guards, mistakes))
}

#[test]
fn every_changelog_has_an_entry_for_this_version() -> Test {
    for entry in fs::read_dir(root().join("tools"))? {
        let folder = entry?.path();
        if !folder.join("src/cli.rs").exists() {
            continue;
        }
        let file = folder.join("CHANGELOG.md");
        let text =
            fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let version = concat!("\n## [", env!("CARGO_PKG_VERSION"), "] - 20");
        assert!(text.contains(version), "{}: no entry for this version", file.display());
        let policy = "](../../knowledge/versions.md)";
        assert!(text.contains(policy), "{}: no link to the policy", file.display());
    }
    Ok(())
}

#[test]
fn every_promise_of_a_version_names_a_test_that_exists() -> Test {
    let path = "knowledge/versions.md";
    let page = fs::read_to_string(root().join(path))?;
    let rows = page.lines().skip_while(|line| !line.starts_with("| promise |")).skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() >= 4, "{rows:?}");
    for row in rows {
        let (tests, mistakes) = named_tests(path, row)?;
        assert!(tests > 0 && mistakes.is_empty(), "{row}: {mistakes:?}");
    }
    Ok(())
}

/// The technologies that the project has to support or to say that it does not.
const TECHNOLOGIES: [&str; 21] = [
    "Git",
    "Nix",
    "direnv",
    "Kubernetes",
    "Talos",
    "FluxCD",
    "OpenTofu",
    "SOPS",
    "age",
    "YAML",
    "GitHub",
    "Markdown",
    "1Password",
    "Rust",
    "GitHub Actions",
    "S3",
    "Hetzner",
    "Cachix",
    "Hydra",
    "GitHub Container Registry",
    "Podman",
];

#[test]
fn every_technology_names_an_existing_test_or_says_that_there_is_none() -> Test {
    let path = "knowledge/technologies.md";
    let page = fs::read_to_string(root().join(path))?;
    for technology in TECHNOLOGIES {
        let row = page.lines().find(|line| line.starts_with(&format!("| {technology} | ")));
        let row = row.ok_or_else(|| format!("no row of {technology}"))?;
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, usage, way, test] = cells[..] else { return Err(row.into()) };
        let (tests, mistakes) = named_tests(path, row)?;
        assert!(mistakes.is_empty(), "{mistakes:?}");
        if test == "none" {
            let is_said = [usage, way].concat().contains("**No");
            assert!(tests == 0 && is_said, "{technology}: say in bold what is not tested");
        } else {
            assert!(tests > 0, "{technology}: {test}");
        }
    }
    Ok(())
}

#[test]
fn every_licence_of_the_manifests_has_its_text() -> Test {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let licences = manifest.lines().find_map(|line| line.strip_prefix("license = "));
    let licences = licences.ok_or("no licence")?.trim_matches('"').to_owned();
    for licence in licences.split(" OR ") {
        let (file, sentence) = match licence {
            "MIT" => ("LICENSE-MIT", "Permission is hereby granted, free of charge"),
            "Apache-2.0" => ("LICENSE-APACHE", "Version 2.0, January 2004"),
            other => return Err(format!("no file is known for the licence {other}").into()),
        };
        assert!(fs::read_to_string(root().join(file))?.contains(sentence), "{file}");
    }
    Ok(())
}

#[test]
fn hazards_md_matches_the_comments_above_the_tests() -> Test {
    let page = root().join("continuous-integration/hazards.md");
    snapbox::assert_data_eq!(hazards::page()?, snapbox::Data::read_from(&page, None).raw());
    Ok(())
}
