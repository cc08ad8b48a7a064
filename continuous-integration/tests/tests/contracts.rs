//! The contract between programs: keys of labels, and paths into another document's status, are written
//! in `tools/shared/contract` only, and reasons in `tools/shared/reasons` only. A program that wrote its
//! own copy would still compile after the contract has changed.

mod diagnostics;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use reasons::Reason;
use repository_tests::root;
use syn::buffer::{Cursor, TokenBuffer};

type Test<T = ()> = Result<T, Box<dyn Error>>;

const PROGRAMS: [&str; 5] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain"];

/// Literals that are also reasons but mean something else: the file, the literal and its meaning.
const OTHER_WORDS: [(&str, &str, &str); 10] = [
    (
        "tools/shared/kubernetes/src/response.rs",
        "NotFound",
        "reason in an answer of the Kubernetes API",
    ),
    ("tools/flux-seed/src/kstatus.rs", "Terminating", "state in the rules of kstatus"),
    ("tools/flux-seed/src/kstatus.rs", "Stalled", "condition that a controller of Flux writes"),
    (
        "tools/flux-seed/src/cause/flux.rs",
        "Invalid",
        "status reason of the Kubernetes API, which Flux quotes",
    ),
    (
        "tools/flux-seed/src/cause/flux.rs",
        "Forbidden",
        "status reason of the Kubernetes API, which Flux quotes",
    ),
    (
        "tools/flux-seed/src/cause/flux.rs",
        "NotFound",
        "status reason of the Kubernetes API, which Flux quotes",
    ),
    ("tools/flux-seed/src/cause/flux.rs", "BuildFailed", "reason in a condition of Flux"),
    ("tools/flux-seed/src/cause/flux.rs", "DependencyNotReady", "reason in a condition of Flux"),
    ("tools/flux-seed/src/cause/flux.rs", "Stalled", "condition that a controller of Flux writes"),
    ("tools/data-drain/src/hold.rs", "Forbidden", "reason in an admission policy of Kubernetes"),
];

/// Crates of `tools/shared` whose literals may be reasons: the list itself, and helpers of tests.
const NO_REPORTERS: [&str; 2] = ["reasons", "testing"];

/// Source files of one crate, each with its path from the root.
type Files = Vec<(String, Source)>;

/// Literals, reasons and modules of one source file, without comments and tests.
#[derive(Default)]
struct Source {
    literals: Vec<String>,
    /// Words in `Reason::WORD`.
    reasons: BTreeSet<String>,
    /// Reasons of errors with their exit statuses.
    exits: BTreeMap<String, BTreeSet<u8>>,
    /// Types that the file names, of those in [`diagnostics::PARTS`].
    parts: BTreeSet<&'static str>,
    /// Names of the modules that have a file of their own.
    modules: Vec<String>,
}

impl Source {
    fn parse(text: &str) -> Test<Self> {
        let mut source = Self::default();
        let tokens = TokenBuffer::new2(text.parse()?);
        source.visit(tokens.begin());
        source.exits = diagnostics::exits(tokens.begin());
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
            } else if let Some((word, next)) = reason(cursor) {
                self.reasons.insert(word);
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
                let types = diagnostics::PARTS.iter().map(|(_, name)| *name);
                self.parts.extend(
                    types.filter(|name| cursor.ident().is_some_and(|(word, _)| word == name)),
                );
                cursor = after_token(cursor);
            }
        }
    }
}

/// Returns the word in `Reason::WORD`, and the position after it.
fn reason(cursor: Cursor<'_>) -> Option<(String, Cursor<'_>)> {
    let (_, next) = cursor.ident().filter(|(word, _)| word == "Reason")?;
    let (_, next) = next.punct().filter(|(punct, _)| punct.as_char() == ':')?;
    let (_, next) = next.punct().filter(|(punct, _)| punct.as_char() == ':')?;
    let (word, next) = next.ident()?;
    Some((word.to_string(), next))
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

/// Returns every source file of the crate in the folder `tools/NAME`.
fn files(name: &str) -> Test<Files> {
    let src = root().join("tools").join(name).join("src");
    let mut files = Vec::new();
    sources(&src.join("lib.rs"), &src, &mut files)?;
    let path =
        |file: PathBuf| -> Test<String> { Ok(file.strip_prefix(root())?.display().to_string()) };
    files.into_iter().map(|(file, source)| Ok((path(file)?, source))).collect()
}

/// Returns the sources of everything that reports a reason, by the folder of the crate in `tools`.
fn reporters() -> Test<Vec<(String, Files)>> {
    let mut names: Vec<_> = PROGRAMS.into_iter().chain(["lab"]).map(str::to_owned).collect();
    for entry in fs::read_dir(root().join("tools/shared"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !NO_REPORTERS.contains(&name.as_str()) {
            names.push(format!("shared/{name}"));
        }
    }
    assert!(names.len() > 8, "the test reads only {names:?}");
    names.into_iter().map(|name| Ok((name.clone(), files(&name)?))).collect()
}

#[test]
fn only_the_contract_writes_keys_of_labels_and_paths_into_statuses() -> Test {
    let mut mistakes = Vec::new();
    for program in PROGRAMS {
        let files = files(program)?;
        assert!(files.len() > 10, "{program}: the test read only {} files", files.len());
        for (file, source) in files {
            let found = findings(&source).into_iter();
            mistakes.extend(found.map(|(literal, rule)| format!("{file}: \"{literal}\": {rule}")));
        }
    }
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
    Ok(())
}

#[test]
fn every_reason_comes_from_the_list_and_is_in_use() -> Test {
    let (mut mistakes, mut allowed, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (_, files) in reporters()? {
        for (file, source) in files {
            for literal in literal_reasons(&source) {
                match OTHER_WORDS.iter().find(|(at, word, _)| (*at, *word) == (&file, literal)) {
                    Some(exception) => allowed.push(exception),
                    None => {
                        mistakes
                            .push(format!("{file}: write Reason::{literal}, not \"{literal}\""));
                    }
                }
            }
            used.extend(source.reasons);
        }
    }
    let unused = Reason::ALL.iter().filter(|reason| !used.contains(reason.as_str()));
    mistakes.extend(
        unused.map(|reason| format!("remove {reason} from the list: no program reports it")),
    );
    let stale = OTHER_WORDS.iter().filter(|exception| !allowed.contains(exception));
    mistakes.extend(stale.map(|exception| format!("remove this exception: {exception:?}")));
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
    Ok(())
}

/// Returns the literals that are reasons.
fn literal_reasons(source: &Source) -> impl Iterator<Item = &str> {
    let is_reason = |literal: &&str| Reason::ALL.iter().any(|reason| reason.as_str() == *literal);
    source.literals.iter().map(String::as_str).filter(is_reason)
}

#[test]
fn a_reason_in_a_literal_is_found_in_every_form() -> Test {
    for bad in [
        r#"fn reason(&self) -> &'static str { "NotDrained" }"#,
        r#"const HIDDEN: &str = "NotFound";"#,
        r#"fn f() { refusals.iter().any(|refusal| refusal.reason == "FactsUnknown") }"#,
        r##"fn f() { condition["reason"] == r#"Destroyed"# }"##,
        r#"fn f() { json!({"reason": "Planned"}) }"#,
    ] {
        assert_eq!(literal_reasons(&Source::parse(bad)?).count(), 1, "{bad}");
    }
    for good in [
        "/// The reason `NotDrained`.\nfn f() -> Reason { Reason::NotDrained }",
        r#"const WORDS: &str = "NotDrained and Planned";"#,
        r#"#[test] fn f() { assert_eq!(word, "Destroyed") }"#,
    ] {
        assert_eq!(literal_reasons(&Source::parse(good)?).count(), 0, "{good}");
    }
    let source = Source::parse("fn f() -> Reason { g(Reason::Bug, [documents::Reason::Busy]) }")?;
    assert_eq!(source.reasons, ["Bug".to_owned(), "Busy".to_owned()].into());
    Ok(())
}

#[test]
fn errors_have_the_exit_statuses_that_the_list_names() -> Test {
    let found = diagnostics::exits_of_errors(&reporters()?);
    let mut mistakes = Vec::new();
    for reason in Reason::ALL {
        let exits: Vec<_> = found.get(reason.as_str()).into_iter().flatten().copied().collect();
        if exits != reason.exits() {
            mistakes.push(format!(
                "{reason}: errors exit with {exits:?}, the list has {:?}",
                reason.exits()
            ));
        }
    }
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
    Ok(())
}

#[test]
fn the_reader_of_errors_finds_the_exit_status_of_each_reason() -> Test {
    let text = "
        impl Diagnostic for Error {
            fn reason(&self) -> Reason {
                match self {
                    Self::Stream(error) => error.reason(),
                    Self::A | Self::B(_) => Reason::Busy,
                    Self::C { status: 429, .. } => Reason::RateLimited,
                    Self::C { source, .. } if source.is_absent() => { Reason::NotFound }
                    Self::C { .. } => Reason::Unreachable,
                }
            }
            fn help(&self) -> Option<String> { None }
            fn exit(&self) -> Exit {
                match self {
                    Self::Stream(error) => error.exit(),
                    Self::A | Self::C { .. } => Exit::Temporary,
                    Self::B(_) => { Exit::Permanent }
                }
            }
        }";
    let expected: [(&str, &[u8]); 4] = [
        ("Busy", &[100, 111]),
        ("NotFound", &[111]),
        ("RateLimited", &[111]),
        ("Unreachable", &[111]),
    ];
    let expected =
        expected.map(|(word, exits)| (word.to_owned(), BTreeSet::from_iter(exits.to_vec())));
    assert_eq!(Source::parse(text)?.exits, BTreeMap::from(expected));
    let constant = "impl Diagnostic for Error {
        fn reason(&self) -> Reason { match self { Self::A(_) => Reason::Bug, } }
        fn exit(&self) -> Exit { Exit::Permanent }
    }";
    let expected = BTreeMap::from([("Bug".to_owned(), BTreeSet::from([100]))]);
    assert_eq!(Source::parse(constant)?.exits, expected);
    assert_eq!(Source::parse("trait T { fn reason(&self) -> Reason; }")?.exits, BTreeMap::new());
    Ok(())
}

#[test]
fn the_page_of_reasons_matches_the_list() -> Test {
    let page = root().join("knowledge/reasons.md");
    let written = diagnostics::page(&reporters()?);
    snapbox::assert_data_eq!(written, snapbox::Data::read_from(&page, None).raw());
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
