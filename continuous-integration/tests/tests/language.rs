//! Counts, over all Rust sources, the habits that make a text hard to read at first reading:
//!
//! - a closure parameter called `it`, which says nothing about the value;
//! - a doc comment that begins with a question word instead of a noun or a verb ("Whether" is right for a
//!   `bool`);
//! - "nobody", "somebody" and "whoever", which hide the actor.
//!
//! In comments of shell, Nix, YAML, jq and Go files, the last two are counted. Every count is zero.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use repository_tests::root;

type Test = Result<(), Box<dyn Error>>;

/// First words of a doc comment that begins with a clause.
const OPENERS: [&str; 12] =
    ["What", "Where", "How", "Whether", "By", "Of", "With", "Who", "Whom", "Whose", "Which", "As"];

/// Words that stand for an actor without naming it.
const ACTORS: [&str; 3] = ["nobody", "somebody", "whoever"];

/// A habit, with its file and line.
#[derive(Debug, PartialEq, Eq)]
enum Habit {
    ClosureParameter(usize),
    Opener(usize),
    Actor(usize),
}

/// Returns the habits in the text of one source file, by line from 1.
fn habits(text: &str) -> Vec<Habit> {
    let lines: Vec<&str> = text.lines().collect();
    let mut habits = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let number = index + 1;
        if has_it(line) {
            habits.push(Habit::ClosureParameter(number));
        }
        if is_opener(&lines, index) {
            habits.push(Habit::Opener(number));
        }
        if hides_actor(line) {
            habits.push(Habit::Actor(number));
        }
    }
    habits
}

/// Returns the habits in the comments of a file of another language, by line from 1. `mark` begins a
/// comment.
fn habits_in_comments(text: &str, mark: &str) -> Vec<Habit> {
    let trailing = format!(" {mark} ");
    let (mut habits, mut continues) = (Vec::new(), false);
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let whole_line = line.trim_start().strip_prefix(mark);
        let after_code = line.split_once(trailing.as_str()).map(|(_, comment)| comment);
        if let Some(comment) = whole_line.or(after_code) {
            let is_beginning = whole_line.is_none() || !continues;
            if is_beginning && OPENERS.contains(&first_word(comment)) {
                habits.push(Habit::Opener(number));
            }
            if hides_actor(comment) {
                habits.push(Habit::Actor(number));
            }
        }
        // A blank comment ends a paragraph, and `#!` is no comment.
        continues = whole_line
            .is_some_and(|comment| !comment.trim().is_empty() && !comment.starts_with('!'));
    }
    habits
}

/// Returns the mark that begins a comment in the language of a file, or `None` for other files. Shell
/// scripts without an extension begin with a comment.
fn comment_mark(path: &Path, text: &str) -> Option<&'static str> {
    match path.extension().unwrap_or_default().to_str()? {
        "go" => Some("//"),
        "jq" | "nix" | "sh" | "yaml" | "yml" => Some("#"),
        "" => text.starts_with('#').then_some("#"),
        _ => None,
    }
}

/// Returns the first word of a comment without its mark.
fn first_word(comment: &str) -> &str {
    comment
        .trim_start()
        .split(|character: char| !character.is_alphabetic())
        .next()
        .unwrap_or_default()
}

/// Whether a line has a word that stands for an actor without naming it.
fn hides_actor(line: &str) -> bool {
    let mut words = line.split(|character: char| !character.is_alphanumeric());
    words.any(|word| ACTORS.contains(&word.to_lowercase().as_str()))
}

/// Whether a line has a closure with a parameter called `it`. Text between two bars counts as parameters
/// when it is a pattern.
fn has_it(line: &str) -> bool {
    let line = line.replace("||", " ");
    let parts: Vec<&str> = line.split('|').collect();
    let is_pattern = |part: &&str| {
        let is_word = |word: &str| word == "it";
        part.split(|character: char| !(character.is_alphanumeric() || character == '_'))
            .any(is_word)
            && part
                .chars()
                .all(|character| character.is_alphanumeric() || "_,:&() <>'*".contains(character))
    };
    // The first part is before the first bar, and the last one after the last bar.
    parts.len() > 2 && parts[1..parts.len() - 1].iter().any(is_pattern)
}

/// Whether the line begins a doc comment with a question word. "Whether" is right for a `bool`.
fn is_opener(lines: &[&str], index: usize) -> bool {
    let doc = |line: &str| {
        let line = line.trim_start();
        let text = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
        text.map(str::to_owned)
    };
    let is_doc = |line: &str| {
        let line = line.trim_start();
        line.starts_with("///") || line.starts_with("//!")
    };
    let Some(text) = doc(lines[index]) else { return false };
    if index > 0 && is_doc(lines[index - 1]) {
        return false;
    }
    let first = first_word(&text);
    if first != "Whether" {
        return OPENERS.contains(&first);
    }
    // Document fields with two values are enums, and their comments name the default.
    let comment = lines[index..].iter().take_while(|line| is_doc(line));
    if comment.into_iter().any(|line| line.contains("(default")) {
        return false;
    }
    let code = lines[index..].iter().map(|line| line.trim());
    let mut code = code.filter(|line| !is_doc(line) && !line.starts_with('#'));
    let Some(first) = code.next() else { return true };
    let is_function = first.contains("fn ");
    let is_last = |line: &str| !is_function || line.ends_with(['{', ';']);
    let mut declaration = first.to_owned();
    while !is_last(&declaration) {
        let Some(line) = code.next() else { break };
        declaration += line;
    }
    !declaration.contains("bool")
}

/// Every Rust source of the repository.
fn sources() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut sources = files(&["continuous-integration", "sources", "templates", "tools"])?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(sources.len() > 200, "the sources are where they are looked for: {}", sources.len());
    Ok(sources)
}

/// Every file below `folders`, which are relative to the root of the repository.
fn files(folders: &[&str]) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut files)?;
    }
    Ok(files)
}

/// Adds the files below `folder` to `files`, except hidden files and results of builds.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Test {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "target" || name == "result" || name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns the path of a file relative to the root of the repository.
fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn sources_name_values_and_actors_and_begin_with_nouns_and_verbs() -> Test {
    let this = Path::new(file!()).file_name();
    let mut found = Vec::new();
    for path in sources()? {
        if path.file_name() == this {
            continue; // it lists the words
        }
        let text = fs::read_to_string(&path)?;
        let name = relative(&path);
        found.extend(habits(&text).into_iter().map(|habit| format!("{name}: {habit:?}")));
    }
    assert!(found.is_empty(), "{}:\n{}", found.len(), found.join("\n"));
    Ok(())
}

#[test]
fn comments_of_other_languages_name_actors_and_begin_with_nouns_and_verbs() -> Test {
    let mut paths = files(&[
        ".ci",
        ".github",
        "continuous-integration",
        "deployments",
        "machines",
        "project",
        "sources",
        "tasks",
        "templates",
        "tools",
    ])?;
    paths.extend(["flake.nix", ".sops.yaml"].map(|name| root().join(name)));
    let (mut found, mut read) = (Vec::new(), 0);
    for path in paths {
        let bytes = fs::read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        let Some(mark) = comment_mark(&path, &text) else { continue };
        read += 1;
        let (name, habits) = (relative(&path), habits_in_comments(&text, mark));
        found.extend(habits.into_iter().map(|habit| format!("{name}: {habit:?}")));
    }
    assert!(read > 100, "the files are where they are looked for: {read}");
    assert!(found.is_empty(), "{}:\n{}", found.len(), found.join("\n"));
    Ok(())
}

#[test]
fn each_habit_is_found_and_its_correction_is_not() {
    for (bad, habit, good) in [
        (
            "let a = b.map(|it| it.c);",
            Habit::ClosureParameter(1),
            "let a = b.map(|server| server.c);",
        ),
        ("f(|(name, it): &(A, B)| g(it));", Habit::ClosureParameter(1), "if a || it || b {}"),
        ("/// What is left.", Habit::Opener(1), "/// Steps that are left."),
        (
            "/// Whether it is there.\nname: String,",
            Habit::Opener(1),
            "/// Whether it exists.\nis: bool,",
        ),
        ("// nobody knows", Habit::Actor(1), "// the cause is unknown"),
        ("\"ask somebody\"", Habit::Actor(1), "\"ask an administrator\""),
    ] {
        assert_eq!(habits(bad), [habit], "{bad}");
        assert_eq!(habits(good), [], "{good}");
    }
}

#[test]
fn each_habit_in_a_comment_is_found_and_its_correction_is_not() {
    for (bad, mark, habit, good) in [
        (
            "#!/bin/sh\n# What CI runs.",
            "#",
            Habit::Opener(2),
            "#!/bin/sh\n# Runs the checks\n# With a lab.",
        ),
        ("a: 1 # Who may read", "#", Habit::Opener(1), "a: 1 # readers"),
        ("# A list\n#\n# How to use it", "#", Habit::Opener(3), "# A list\n#\n# Usage"),
        ("\t// whoever asks", "//", Habit::Actor(1), "nobody := 1 // the caller"),
    ] {
        assert_eq!(habits_in_comments(bad, mark), [habit], "{bad}");
        assert_eq!(habits_in_comments(good, mark), [], "{good}");
    }
}
