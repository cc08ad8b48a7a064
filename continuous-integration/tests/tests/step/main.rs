//! One step of a CI job: how this repository's actions handle a program that fails. The programs are
//! scripts here; `operations/actions.rs` runs the actions with the real programs.

mod install;
mod workflows;

use std::error::Error;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use repository_tests::write_script;
use serde_json::Value;
use tempfile::TempDir;

type Test = Result<(), Box<dyn Error>>;

/// A step before its run, with a script on PATH in place of `flux-seed`.
struct Step {
    folder: TempDir,
}

impl Step {
    fn new(program: &str) -> Result<Self, Box<dyn Error>> {
        let step = Self { folder: tempfile::tempdir()? };
        write_script(&step.path("flux-seed"), &format!("#!/usr/bin/env bash\n{program}\n"))?;
        for file in ["output", "summary"] {
            fs::write(step.path(file), "")?;
        }
        Ok(step)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, stream: &str) -> Command {
        let actions = repository_tests::root().join("continuous-integration/actions");
        let path = std::env::var("PATH").unwrap_or_default();
        // A shell that starts the tests in the background makes them ignore SIGINT; this restores the
        // default.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=INT")
            .arg(actions.join("run.sh"))
            .env_clear()
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("RUNNER_TEMP", self.folder.path())
            .env("GITHUB_OUTPUT", self.path("output"))
            .env("GITHUB_STEP_SUMMARY", self.path("summary"))
            .env("GITHUB_ACTION_PATH", actions.join("flux-seed"))
            .envs([("PROGRAM", "flux-seed"), ("VERB", "plan"), ("FLAGS", "--check\n-v")])
            .envs([("DOCUMENTS", "one\n\nan other\n"), ("IDENTITY", "hunter2"), ("STREAM", stream)])
            .env("FACTS", "digest .status.observed.revision\n")
            .stdin(Stdio::null());
        command
    }

    /// Returns the value of a step output.
    fn output(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let text = fs::read_to_string(self.path("output"))?;
        let (_, rest) =
            text.split_once(&format!("{name}<<")).ok_or_else(|| format!("no {name}"))?;
        let (end, rest) = rest.split_once('\n').ok_or("no value")?;
        Ok(rest.split_once(&format!("\n{end}")).ok_or("no end")?.0.to_owned())
    }
}

/// Returns a shell command that prints a document whose condition Ready has this message.
fn print_document(message: &str) -> String {
    let condition =
        format!(r#"{{"type":"Ready","status":"False","reason":"Planned","message":"{message}"}}"#);
    format!(
        r#"printf '%s\n' '{{"kind":"Delivery","metadata":{{"name":"prod"}},"status":{{"conditions":[{condition}],"observed":{{"revision":"one\ntwo"}},"plan":[]}}}}'"#
    )
}

#[test]
fn a_step_passes_its_inputs_to_the_program_and_returns_its_exit_status() -> Test {
    let program =
        "printf '[%s] ' \"$@\" \"$FLUX_SEED_KEY\" \"${IDENTITY-}\" \"${STREAM-}\" >&2; exit 3";
    let ended = Step::new(program)?.command("").output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(said, "[plan] [--check] [-v] [one] [an other] [hunter2] [] [] ");
    assert_eq!(ended.status.code(), Some(3));
    Ok(())
}

#[test]
fn text_of_a_document_is_escaped_in_markup_commands_and_outputs() -> Test {
    let step = Step::new(
        &(print_document(r"a|b_c <d> [e](f)\n::set-output name=ready::true") + "; exit 100"),
    )?;
    let ended = step.command("").output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    let expected = "::error title=Delivery/prod is not Ready::Planned: a|b_c <d> [e](f)%0A::set-output name=ready::true\n";
    assert_eq!(said, expected);
    let summary = fs::read_to_string(step.path("summary"))?;
    let cell = r"| a\|b\_c &lt;d> \[e\](f) ::set-output name=ready::true |";
    assert!(summary.contains(cell), "{summary}");
    assert_eq!(step.output("ready")?, "false");
    assert_eq!(step.output("digest")?, "one\ntwo");
    Ok(())
}

#[test]
fn summary_of_verify_has_the_picture_unless_the_program_or_the_caller_has_none() -> Test {
    const FENCE: &str = "\n```mermaid\nflowchart LR\n  a --x b\n```\n";
    let document = print_document("not proven");
    for (help, flags, passed, has_picture) in [
        ("svg, mermaid", "-q", "[verify] [--output] [mermaid=evidence.mmd] [-q] ", true),
        ("an earlier release", "-q", "[verify] [-q] ", false),
        ("svg, mermaid", "--output svg=a.svg", "[verify] [--output] [svg=a.svg] ", false),
        ("svg, mermaid", "-osvg=a.svg", "[verify] [-osvg=a.svg] ", false),
    ] {
        let program = format!(
            r#"[ "$2" != --help ] || {{ echo '{help}'; exit 0; }}
            for word in "$@"; do
              case $word in mermaid=*) printf 'flowchart LR\n  a --x b\n' >"${{word#*=}}"; word=mermaid=${{word##*/}};; esac
              case $word in one | an*) ;; *) printf '[%s] ' "$word" >&2;; esac
            done
            {document}; exit 100"#
        );
        let step = Step::new(&program)?;
        let ended = step.command("").env("VERB", "verify").env("FLAGS", flags).output()?;
        assert_eq!(ended.status.code(), Some(100));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.starts_with(passed), "{said}");
        let summary = fs::read_to_string(step.path("summary"))?;
        assert!(summary.contains("not proven"), "{summary}");
        assert_eq!(summary.contains(FENCE), has_picture, "{summary}");
        assert_eq!(step.output("digest")?, "one\ntwo", "the documents are on standard output");
    }
    Ok(())
}

#[test]
fn validation_errors_become_annotations_and_part_of_the_summary() -> Test {
    let mistakes =
        "printf 'error: a.yaml:1:1: kind: 50%% wrong\\n    1 | kind\\nmistakes: 1\\n' >&2; exit 2";
    let step = Step::new(mistakes)?;
    let ended = step.command("").output()?;
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("::error title=flux-seed::a.yaml:1:1: kind: 50%25 wrong\n"), "{said}");
    let summary = fs::read_to_string(step.path("summary"))?;
    assert!(summary.contains("error: a.yaml:1:1: kind: 50% wrong"), "{summary}");
    assert!(step.output("documents").is_ok());
    Ok(())
}

#[test]
fn a_cancelled_job_lets_the_program_finish_and_keeps_its_documents() -> Test {
    let program = format!(
        "trap '{}; exit 111' TERM\ntouch \"$RUNNER_TEMP/started\"\nfor _ in {{1..300}}; do sleep 0.1; done",
        print_document("interrupted").replace('\'', r#"'"'"'"#)
    );
    let step = Step::new(&program)?;
    let mut child = step.command("").stderr(Stdio::null()).spawn()?;
    let end = Instant::now() + Duration::from_secs(20);
    while !step.path("started").exists() {
        assert!(Instant::now() < end, "the program has not started");
        thread::sleep(Duration::from_millis(20));
    }
    // To the shell alone, as GitHub's runner does.
    Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    assert_eq!(child.wait()?.code(), Some(111));
    assert!(fs::read_to_string(step.path("summary"))?.contains("interrupted"));
    assert!(!step.output("stream")?.is_empty());
    Ok(())
}

// hazard: Documents that the transport cannot carry are lost, and the next job runs without them.
// class: A limit of the transport that the program does not see.
// members: an output of a job, a summary, an argument of a command
// now: large documents are an artifact, which the next job compares with its digest; a long summary says that it is cut
#[test]
fn documents_too_large_for_an_output_are_an_artifact_that_the_next_step_verifies() -> Test {
    // Random, so that it does not compress.
    let large = r#"printf '{"kind":"Delivery","spec":"%s"}\n' "$(head -c 200000 /dev/urandom | base64 --wrap=0)""#;
    let step = Step::new(large)?;
    let ended = step.command("").output()?;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let documents = fs::read(step.output("documents")?)?;
    assert!(documents.len() > 200_000, "the file of the documents is complete");
    let stream: Value = serde_json::from_str(&step.output("stream")?)?;
    assert_eq!(stream["artifact"], step.output("artifact")?, "the action uploads this artifact");
    let name = stream["artifact"].as_str().unwrap_or_default();
    assert!(name.starts_with("flux-seed-plan-"), "{name}");
    let again = Step::new(large)?;
    again.command("").output()?;
    assert_ne!(again.output("artifact")?, name, "a run cannot have two artifacts of one name");

    let read = r#"cat "${@: -3:1}" >"$RUNNER_TEMP/read""#; // the stream is before the two documents
    for (downloaded, is_accepted) in
        [(Some(&documents), true), (Some(&vec![b'{']), false), (None, false)]
    {
        let step = Step::new(read)?;
        let folder = step.path("downloaded");
        fs::create_dir(&folder)?;
        if let Some(bytes) = downloaded {
            fs::write(folder.join("documents.json"), bytes)?;
        }
        let ended = step.command(&stream.to_string()).env("ARTIFACT", &folder).output()?;
        assert_eq!(ended.status.success(), is_accepted, "{ended:?}");
        if is_accepted {
            assert_eq!(fs::read(step.path("read"))?, documents);
        } else {
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(
                said.starts_with("::error title=stream::the artifact of the stream is"),
                "{said}"
            );
            assert!(!step.path("read").exists(), "the program must not start on other documents");
        }
    }
    Ok(())
}

#[test]
fn a_damaged_stream_is_an_error_and_a_small_one_needs_no_artifact() -> Test {
    let step = Step::new("touch \"$RUNNER_TEMP/started\"")?;
    assert!(!step.command("no base64!").output()?.status.success());
    assert!(!step.path("started").exists(), "the program must not start on a partial stream");

    let step = Step::new(&print_document("small"))?;
    assert!(step.command("").output()?.status.success());
    assert!(step.output("stream")?.starts_with("H4sI"), "compressed documents");
    assert!(step.output("artifact").is_err());
    Ok(())
}

#[test]
fn a_summary_that_github_would_drop_is_cut_at_the_end_of_a_line() -> Test {
    let document = print_document(&"ä".repeat(1000));
    let step = Step::new(&format!("for _ in {{1..700}}; do {document}; done"))?;
    assert!(step.command("").output()?.status.success());
    let summary = fs::read_to_string(step.path("summary"))?;
    assert!((900_000..1_048_576).contains(&summary.len()), "{}", summary.len());
    let (rows, note) = summary.trim_end().rsplit_once('\n').ok_or("one line")?;
    assert_eq!(
        note,
        "The summary is longer than GitHub shows. The output `documents` has the rest."
    );
    assert!(rows.trim_end().ends_with("ää |"), "every row is whole");
    Ok(())
}
