//! The contract between programs: keys of labels, and paths into another document's status, are written
//! in `tools/shared/contract` only. A program that wrote its own copy would still compile after the
//! contract has changed.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use repository_tests::root;
use syn::buffer::{Cursor, TokenBuffer};

type Test<T = ()> = Result<T, Box<dyn Error>>;

const PROGRAMS: [&str; 5] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain"];

/// Literals that may stay: the file, the literal and the reason.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "tools/vcs-bootstrap/src/session.rs",
    "observed",
    "the program reads back its own status, which another version may have written",
)];

/// Literals and modules of one source file, without comments and tests.
#[derive(Default)]
struct Source {
    literals: Vec<String>,
    /// Names of the modules that have a file of their own.
    modules: Vec<String>,
}

impl Source {
    fn parse(text: &str) -> Test<Self> {
        let mut source = Self::default();
        source.visit(TokenBuffer::new2(text.parse()?).begin());
        Ok(source)
    }

    fn visit(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if let Some((attribute, next)) = attribute(cursor) {
                // A doc comment is an attribute, too.
                cursor = if is_test(&attribute) { after_item(next) } else { next };
            } else if let Some((name, next)) = module_file(cursor) {
                self.modules.push(name);
                cursor = next;
            } else if let Some((inside, _, _, next)) = cursor.any_group() {
                self.visit(inside);
                cursor = next;
            } else if let Some((literal, next)) = cursor.literal() {
                let text = literal.to_string();
                let text = text.trim_start_matches(['b', 'c', 'r', '#']).trim_end_matches('#');
                if let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
                    self.literals.push(text.to_owned());
                }
                cursor = next;
            } else {
                cursor = after_token(cursor);
            }
        }
    }
}

/// Returns the position after one token, or the end.
fn after_token(cursor: Cursor<'_>) -> Cursor<'_> {
    cursor.token_tree().map_or(cursor, |(_, next)| next)
}

/// Returns the text of an attribute, and the position after the attribute.
fn attribute(cursor: Cursor<'_>) -> Option<(String, Cursor<'_>)> {
    let (_, mut next) = cursor.punct().filter(|(punct, _)| punct.as_char() == '#')?;
    if let Some((_, after)) = next.punct().filter(|(punct, _)| punct.as_char() == '!') {
        next = after;
    }
    let (tree, next) = next.token_tree()?;
    let text = tree.to_string();
    text.starts_with('[').then_some((text, next))
}

fn is_test(attribute: &str) -> bool {
    let text: String = attribute.chars().filter(|letter| !letter.is_whitespace()).collect();
    text == "[test]" || text == "[cfg(test)]"
}

/// Returns the position after an item: after its body in braces, or after its semicolon.
fn after_item(mut cursor: Cursor<'_>) -> Cursor<'_> {
    while let Some((tree, next)) = cursor.token_tree() {
        let text = tree.to_string();
        cursor = next;
        if text == ";" || text.starts_with('{') {
            break;
        }
    }
    cursor
}

/// Returns the name in `mod NAME;`, and the position before the semicolon.
fn module_file(cursor: Cursor<'_>) -> Option<(String, Cursor<'_>)> {
    let (_, next) = cursor.ident().filter(|(word, _)| word == "mod")?;
    let (name, next) = next.ident()?;
    next.punct().filter(|(punct, _)| punct.as_char() == ';')?;
    Some((name.to_string(), next))
}

/// Returns the rule of the contract that `literal` breaks.
fn broken_rule(literal: &str) -> Option<&'static str> {
    // `https://example.org/holistic/…` is a URL and no key.
    let is_key = |(position, _): (usize, &str)| !literal[..position].ends_with('/');
    if literal.match_indices("holistic/").any(is_key) {
        return Some("use contract::labels or contract::facts::documents_of_kind");
    }
    let is_path = ["/observed/", "/sealed/"].iter().any(|path| literal.contains(path));
    (is_path || ["observed", "sealed"].contains(&literal)).then_some("use contract::facts")
}

/// Returns every literal that breaks a rule of the contract, with the rule.
fn findings(source: &Source) -> Vec<(String, &'static str)> {
    let found = source.literals.iter();
    found.filter_map(|literal| Some((literal.clone(), broken_rule(literal)?))).collect()
}

/// Reads the file of a module and the files of the modules below it, except tests.
fn sources(file: &Path, folder: &Path, found: &mut Vec<(PathBuf, Source)>) -> Test {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let source = Source::parse(&text)?;
    for module in &source.modules {
        let (beside, below) = (folder.join(format!("{module}.rs")), folder.join(module));
        let file = if beside.exists() { beside } else { below.join("mod.rs") };
        sources(&file, &below, found)?;
    }
    found.push((file.to_owned(), source));
    Ok(())
}

#[test]
fn only_the_contract_writes_keys_of_labels_and_paths_into_statuses() -> Test {
    let (mut mistakes, mut allowed) = (Vec::new(), Vec::new());
    for program in PROGRAMS {
        let src = root().join("tools").join(program).join("src");
        let mut files = Vec::new();
        sources(&src.join("lib.rs"), &src, &mut files)?;
        assert!(files.len() > 10, "{program}: the test read only {} files", files.len());
        for (file, source) in files {
            let file = file.strip_prefix(root())?.display().to_string();
            for (literal, rule) in findings(&source) {
                match EXCEPTIONS.iter().find(|(at, text, _)| (*at, *text) == (&file, &literal)) {
                    Some(exception) => allowed.push(exception),
                    None => mistakes.push(format!("{file}: \"{literal}\": {rule}")),
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
    for exception in &EXCEPTIONS {
        assert!(allowed.contains(&exception), "remove this exception: {exception:?}");
    }
    Ok(())
}

#[test]
fn the_finder_reports_every_form_of_a_string_contract() -> Test {
    for bad in [
        r#"const LABEL: &str = "holistic/drain";"#,
        r#"const LABEL: &str = "data-drain.holistic/node";"#,
        r##"fn f() { g(r#"the label holistic/drain"#) }"##,
        r#"fn f() { json!({"labels": {"holistic/role": role}}) }"#,
        r#"fn f() { stream.status_of("Artifact", name, "/observed/digest") }"#,
        r#"fn f() { error("its status lacks /sealed/kubeconfig") }"#,
        r#"fn f() { cluster["status"]["sealed"][name].as_str() }"#,
        r#"fn f() { status.get("observed") }"#,
        r#"mod inner { fn f() { matches!(text, "observed") } }"#,
        r#"#[cfg(test)] mod tests { fn f() {} } const A: &str = "holistic/a";"#,
        r#"#[cfg(test)] use a::b; const A: &str = "holistic/a";"#,
    ] {
        assert_eq!(findings(&Source::parse(bad)?).len(), 1, "{bad}");
    }
    for good in [
        "/// Label `holistic/drain`, from `/observed/digest`.\nstruct A;",
        "// holistic/drain\n/* /sealed/a */ fn f() {}",
        r#"const PAGE: &str = "https://github.com/zabronax/holistic/blob/main/README.md";"#,
        r#"#[cfg(test)] mod tests { const A: &str = "holistic/a"; }"#,
        r#"#[cfg(test)] const A: &str = "holistic/a";"#,
        r#"#[test] fn f() { g("/observed/digest") }"#,
        r#"const A: &str = "observedGeneration";"#,
    ] {
        assert_eq!(findings(&Source::parse(good)?), [], "{good}");
    }
    Ok(())
}

#[test]
fn the_finder_reads_modules_except_tests() -> Test {
    let source = Source::parse("mod a;\npub mod b;\n#[cfg(test)]\nmod tests;\nmod c {}\n")?;
    assert_eq!(source.modules, ["a", "b"]);
    Ok(())
}
