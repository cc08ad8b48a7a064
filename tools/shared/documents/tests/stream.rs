//! Every validation error of a stream is reported at once.

use std::error::Error as StdError;
use std::fs;

use documents::{Error, Kind, Stream};
use schemars::JsonSchema;
use serde::Deserialize;

type Test = Result<(), Box<dyn StdError>>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Fleet {
    machines: Vec<Machine>,
    source: Option<Source>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
struct Machine {
    name: String,
    disks: u8,
    zone: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
enum Source {
    Git { url: String },
    Nothing,
}

impl Kind for Fleet {
    const KIND: &'static str = "Fleet";
    type Observed = ();
    type Evidence = ();
    type Step = ();
}

/// Returns the errors in `text`, without the name of the input and the excerpts.
fn mistakes(text: &str) -> Result<Vec<String>, Box<dyn StdError>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("a.yaml"), text)?;
    let mut stream = Stream::read(&[folder.path().join("a.yaml")]);
    stream.documents_of::<Fleet>();
    let Err(Error::Invalid { mistakes, .. }) = stream.accept() else {
        return Ok(Vec::new());
    };
    let first_line = |text: &String| text.split_once(".yaml:")?.1.lines().next().map(str::to_owned);
    Ok(mistakes.iter().filter_map(first_line).collect())
}

fn fleet(spec: &str) -> String {
    format!("apiVersion: holistic/v1alpha1\nkind: Fleet\nmetadata: {{ name: x }}\nspec:\n{spec}")
}

#[test]
fn every_error_in_lists_and_alternatives_is_reported_at_once() -> Test {
    let text = fleet(
        "  machines:
    - { name: a, disks: none, zone: 1 }
    - name: b
    - { name: c, disks: 1, zone: z, colour: red }
  source:
    git: { uri: x }
",
    );
    let expected = [
        "6:18: spec.machines.0.disks: invalid type: string, expected u8",
        "6:31: spec.machines.0.zone: invalid type: integer `1`, expected a string",
        "7:7: spec.machines.1: missing field `disks`",
        "7:7: spec.machines.1: missing field `zone`",
        "8:37: spec.machines.2.colour: unknown field `colour`, expected one of `name`, `disks`, `zone`",
        "10:5: spec.source.git: missing field `url`",
        "10:12: spec.source.git.uri: unknown field `uri`: did you mean `url`? Expected `url`",
    ];
    assert_eq!(mistakes(&text)?, expected);
    Ok(())
}

#[test]
fn errors_do_not_quote_values_that_may_be_secrets() -> Test {
    let text = fleet("  machines: hunter2\n  source: hunter2\n  token: hunter2\n");
    let expected = [
        "5:3: spec.machines: invalid type: string, expected a sequence",
        "6:3: spec.source: unknown variant, expected `git` or `nothing`",
        "7:3: spec.token: unknown field `token`, expected `machines` or `source`",
    ];
    assert_eq!(mistakes(&text)?, expected);
    Ok(())
}

#[test]
fn errors_within_and_between_documents_are_reported_together() -> Test {
    let good = fleet("  { machines: [], source: nothing }\n");
    let json = r#"{"apiVersion":"holistic/v1alpha1","kind":"Fleet","spec":{"machines":{}}}"#;
    let text = format!("{good}---\n{good}---\n{good}{good}---\njust text\n---\na: b: c\n{json}\n");
    let expected = [
        "9:13: metadata.name: another Fleet has this name",
        "18:1: duplicate mapping key `apiVersion` is not allowed here: begin every document with `---`",
        "23:1: a document is an object with `apiVersion` and `kind`",
        "26:5: mapping values are not allowed in this context",
        "27:1: missing field `metadata`",
        "27:58: spec.machines: invalid type: map, expected a sequence",
    ];
    assert_eq!(mistakes(&text)?, expected);
    Ok(())
}

#[test]
fn number_that_would_be_rounded_is_an_error() -> Test {
    let text = "apiVersion: v1\nkind: Foreign\nnumber: 18446744073709551617\n";
    assert_eq!(mistakes(text)?, ["1:1: a number is too large to be passed on unchanged: quote it"]);
    Ok(())
}

/// Other files of the directory may be invalid YAML.
#[test]
fn directory_is_read_at_any_depth_for_our_documents_only() -> Test {
    let folder = tempfile::tempdir()?;
    fs::create_dir_all(folder.path().join("b/c"))?;
    fs::create_dir(folder.path().join(".hidden"))?;
    fs::write(folder.path().join("a.yaml"), fleet("  { machines: [] }\n"))?;
    fs::write(folder.path().join("b/manifest.yaml"), "apiVersion: v1\nkind: Pod\n")?;
    fs::write(folder.path().join("b/chart.yaml"), "{{ not: yaml: at all")?;
    fs::write(folder.path().join("b/c/z.yaml"), fleet("  machines: 1\n").replace(": x", ": z"))?;
    fs::write(folder.path().join(".hidden/z.yaml"), "apiVersion: holistic/v1alpha1\nkind: [")?;
    let mut stream = Stream::read(&[folder.path().to_owned()]);
    assert_eq!(stream.documents_of::<Fleet>().len(), 1);
    let Err(Error::Invalid { mistakes, documents }) = stream.accept() else {
        return Err("a mistake was not found".into());
    };
    assert_eq!((mistakes.len(), documents), (1, 2));
    assert!(mistakes[0].contains("b/c/z.yaml:5:3: spec.machines"), "{}", mistakes[0]);
    Ok(())
}

/// Any crate of a build may enable comments in the parser; `cargo nextest run --workspace` covers that.
#[test]
fn comments_do_not_change_the_position_of_an_error() -> Test {
    let text = fleet(
        "  # of the list
  machines: # here
    # of the item
    - name: a # its name
      # of the field
      disks: none
      zone: z
",
    );
    let expected = ["10:7: spec.machines.0.disks: invalid type: string, expected u8"];
    assert_eq!(mistakes(&text)?, expected);
    Ok(())
}

/// Returns the errors of a folder that contains a valid document and the files `others`.
fn beside_a_good_document(others: &[(&str, &str)]) -> Result<Vec<String>, Box<dyn StdError>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("a.yaml"), fleet("  { machines: [] }\n"))?;
    for (name, text) in others {
        fs::write(folder.path().join(name), text)?;
    }
    let mut stream = Stream::read(&[folder.path().to_owned()]);
    stream.documents_of::<Fleet>();
    let Err(Error::Invalid { mistakes, .. }) = stream.accept() else { return Ok(Vec::new()) };
    let first_line = |text: &String| {
        text.lines().next().and_then(|line| line.rsplit_once('/')).map(|(_, rest)| rest.to_owned())
    };
    Ok(mistakes.iter().filter_map(first_line).collect())
}

#[test]
fn wrong_kind_or_version_is_an_error_even_if_another_program_owns_the_document() -> Test {
    let text = "apiVersion: holistic/v1alpha1\nkind: Respository\nmetadata: {name: a}\n---\n\
                apiVersion: holistc/v1alpha1\nkind: Repository\nmetadata: {name: a}\n---\n\
                apiVersion: holistic/v1alpha1\nkind: Drain\nmetadata: {name: a}\n---\n\
                apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n";
    let expected = [
        "2:1: kind: unknown kind: did you mean Repository?",
        "5:1: apiVersion: unknown version: write holistic/v1alpha1",
    ];
    assert_eq!(mistakes(text)?, expected);
    Ok(())
}

// hazard: A folder of `.yml` files is "nothing to do".
// class: Unread input looks like success.
// members: `.YAML`, `.json`, empty files and folders
// now: the files are read, or exit 2
#[test]
fn every_file_of_a_directory_that_may_be_ours_is_checked() -> Test {
    let typo = "apiVersion: holistic/v1alpha1\nkind: Flete\nmetadata: {name: b}\n";
    let told =
        "kind: unknown kind: the kinds are Project, Repository, Artifact, Cluster, Delivery, Drain";
    for name in ["b.yaml", "b.yml", "B.YML", "b.YAML", "b.json"] {
        let place = format!("{name}:2:1: {told}");
        assert_eq!(beside_a_good_document(&[(name, typo)])?, [place], "{name}");
    }
    for text in [
        "apiVersion: holistc/v1alpha1\nkind: Repository\n",
        "{\"apiVersion\":\"Holistic/v1alpha1\",\"kind\":\"Repository\"}",
        "apiversion: holistic/v1alpha1\nkind: Repository\n",
        "kind: Repository\nmetadata: {name: a}\n",
    ] {
        assert_eq!(beside_a_good_document(&[("b.yml", text)])?.len(), 1, "{text}");
    }
    let theirs = [
        ("b.txt", typo),
        ("c.yaml", "image: ghcr.io/holistic/greeter\n"),
        ("d.yml", "apiVersion: cluster.x-k8s.io/v1beta1\nkind: Cluster\n"),
        ("e.json", "\u{0}"),
        ("f.yaml", "{{ not: yaml: at all"),
    ];
    assert_eq!(beside_a_good_document(&theirs)?, [""; 0]);
    Ok(())
}

#[test]
fn input_without_a_document_is_an_error() -> Test {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("empty"))?;
    fs::create_dir_all(path("theirs"))?;
    fs::write(path("theirs/pod.yaml"), "apiVersion: v1\nkind: Pod\n")?;
    fs::write(path("comment.yaml"), "# nothing yet\n")?;
    fs::write(path("good.yaml"), fleet("  { machines: [] }\n"))?;
    for (input, told) in [
        ("empty", "empty: no document of apiVersion holistic/v1alpha1 is in this directory"),
        ("theirs", "theirs: no document of apiVersion holistic/v1alpha1 is in this directory"),
        ("comment.yaml", "comment.yaml: no document is in this file"),
        ("absent.yaml", "absent.yaml: No such file"),
    ] {
        let mut stream = Stream::read(&[path("good.yaml"), path(input)]);
        stream.documents_of::<Fleet>();
        let Err(Error::Invalid { mistakes, .. }) = stream.accept() else {
            return Err(format!("{input} looks like success").into());
        };
        assert!(mistakes.len() == 1 && mistakes[0].contains(told), "{mistakes:?}");
    }
    Ok(())
}
