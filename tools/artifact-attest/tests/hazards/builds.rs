//! An image goes through two rounds: the builds, then the steps whose digests the builds revealed. A
//! stand-in for Nix, two shell scripts, evaluates and builds one fixed derivation.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::stub::{Registry, Sandbox, Test, published, reason, serve, text, written};

/// Steps of an image that is not published, in order.
const ALL: [&str; 5] = ["build ", "rebuild ", "publish ", "sign and publish ", "create tag "];

/// Answers `nix flake metadata`, `nix eval` and `nix path-info`. A path is in the store after its
/// first build.
const NIX: &str = r#"#!/bin/sh
env > STORE/environment
case "$*" in
  *--json-format*) test -e STORE/old && { echo "error: unrecognised flag '--json-format'" >&2; exit 1; } ;;
esac
case "$*" in
  *"flake metadata"*) echo '{"locks": {"root": "root", "version": 7, "nodes": {"root": {}}}}' ;;
  *" eval "*)
    test -e STORE/endless && { echo $$ > STORE/evaluation; sleep 300 & wait; }
    echo '{"drv": "STORE/greeter.drv", "result": "STORE/greeter", "version": "1.2.3+b4", "meta": {"licenses": null, "cpe": null, "homepage": null, "description": null}}' ;;
  *--version*) echo 'nix (Nix) 2.8.0' ;;
  *"config show"*) test -e STORE/old && exit 1; echo '{"sandbox": {"value": true}, "system": {"value": "x86_64-linux"}}' ;;
  *show-config*) echo '{"sandbox": {"value": true}, "system": {"value": "x86_64-linux"}}' ;;
  *path-info*)
    test -e STORE/greeter || exit 1
    readlink "$(cat STORE/link)" >> STORE/roots
    echo '[{"path": "STORE/greeter", "narHash": "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "references": []}]' ;;
  *) exit 9 ;;
esac
"#;

/// Builds, notes its arguments, and makes the root of the garbage collector that they name. A build does not end if
/// the file `endless` is in the store.
const NIX_STORE: &str = r#"#!/bin/sh
echo "$*" >> STORE/builds
while test $# -gt 1; do
  test "$1" = --add-root && { ln -sfn STORE/greeter "$2"; echo "$2" > STORE/link; }
  shift
done
test -e STORE/endless-build && { sleep 300 & echo $! > STORE/build; wait; }
mkdir -p STORE/greeter/bin
echo 'echo hello' > STORE/greeter/bin/greeter
chmod +x STORE/greeter/bin/greeter
"#;

const DERIVATION: &str = r#"Derive([("out","/nix/store/greeter","","")],[],[],"x86_64-linux","/bin/sh",[],[("name","greeter")])"#;

/// A sandbox with a flake in `a`, and a stand-in for Nix.
pub(crate) struct Bench {
    pub(crate) registry: Registry,
    pub(crate) sandbox: Sandbox,
    pub(crate) store: PathBuf,
    /// `PATH` with the stand-in in front.
    pub(crate) path: String,
    /// A Project and an image.
    pub(crate) input: String,
}

impl Bench {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let registry = Registry::default();
        let shared = registry.clone();
        let server = serve(move |request| Some(shared.answer(request)))?;
        let sandbox = Sandbox::new(&server.address)?;
        let (store, programs) = (sandbox.outside("store"), sandbox.outside("bin"));
        fs::create_dir(&store)?;
        fs::create_dir(&programs)?;
        fs::write(store.join("greeter.drv"), DERIVATION)?;
        for (name, script) in [("nix", NIX), ("nix-store", NIX_STORE)] {
            let program = programs.join(name);
            fs::write(&program, script.replace("STORE", &store.display().to_string()))?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        }
        let path = env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", programs.display());
        let manifests = "manifests: {path: ./a, repository: shared}";
        let image =
            "build: {flake: ./a}\n  image: {repository: shared, entrypoint: [/bin/greeter]}";
        let input = sandbox.one().replace(manifests, image);
        Ok(Self { registry, sandbox, store, path, input })
    }

    /// Runs `line`, which must succeed. Returns the Artifact, and the steps in the log whose field
    /// `field` has a text.
    fn run(
        &self,
        line: &str,
        field: &str,
    ) -> Result<(Value, Vec<String>), Box<dyn std::error::Error>> {
        let line = format!("{line} --log-format json");
        let output = self.sandbox.run(&line, &self.input, &[("PATH", &self.path)])?;
        let log = String::from_utf8(output.stderr.clone())?;
        assert!(output.status.success(), "{line}: {log}");
        let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let steps = lines.iter().filter(|line| line["plan"] != "summary");
        let steps = steps.filter_map(|line| line[field].as_str().map(str::to_owned)).collect();
        let artifact = written(&output)?.pop().ok_or("no document")?;
        Ok((artifact, steps))
    }

    /// Returns the kinds of builds since the last call.
    fn builds(&self) -> Vec<&'static str> {
        let file = self.store.join("builds");
        let calls = fs::read_to_string(&file).unwrap_or_default(); // absent before the first build
        let _ = fs::remove_file(&file); // absent, too
        let kind = |call: &str| if call.contains("--check") { "check" } else { "realise" };
        // Other calls keep an existing result in the store.
        calls.lines().filter(|call| call.ends_with("greeter.drv")).map(kind).collect()
    }
}

fn assert_steps(steps: &[String], expected: &[&str]) {
    let is_same = steps.len() == expected.len()
        && steps.iter().zip(expected).all(|(step, start)| step.starts_with(start));
    assert!(is_same, "{steps:?}, not {expected:?}");
}

#[test]
fn apply_builds_twice_then_publishes_what_its_plan_showed() -> Test {
    let bench = Bench::new()?;
    let (planned, shown) = bench.run("plan", "text")?;
    assert_steps(&shown, &ALL);
    assert_eq!(
        planned["status"]["plan"][2],
        json!({"action": "publish", "digest": "known after apply"})
    );
    assert_eq!(bench.builds(), [""; 0], "a plan builds nothing");

    let (applied, executed) = bench.run("apply", "step")?;
    assert_steps(&executed, &ALL);
    assert_eq!(reason(&applied), "Published");
    assert_eq!(applied["status"]["observed"]["reproducible"], true);
    assert_eq!(bench.builds(), ["realise", "realise", "check"]);
    assert!(bench.registry.names("test/shared").contains(&published(&applied)?.to_owned()));

    let (again, executed) = bench.run("apply", "step")?;
    assert_steps(&executed, &[]);
    assert_eq!(text(&[again]), text(&[applied]));
    assert_eq!(bench.builds(), [""; 0], "the signed provenance has the result of the build");
    bench.run("verify", "step")?;
    Ok(())
}

/// The state after an interruption before the last step: everything is published but the tag.
#[test]
fn apply_builds_again_and_only_tags_what_an_interrupted_run_published() -> Test {
    let bench = Bench::new()?;
    let (applied, _) = bench.run("apply", "step")?;
    let tag = applied["status"]["observed"]["tag"].as_str().ok_or("no tag")?.to_owned();
    bench.registry.with(|all| all.manifests.remove(&("test/shared".to_owned(), tag)));
    bench.builds();

    let (_, shown) = bench.run("plan", "text")?;
    assert_steps(&shown, &ALL);
    let (again, executed) = bench.run("apply", "step")?;
    assert_steps(&executed, &["build ", "rebuild ", "create tag "]);
    assert_eq!(bench.builds(), [""; 0], "the store and the cache have both builds");
    assert_eq!(text(&[again]), text(&[applied]));
    Ok(())
}

#[test]
fn apply_builds_nothing_when_the_source_cannot_be_checked() -> Test {
    let bench = Bench::new()?;
    // No server listens on the discard port.
    let input = bench.input.replace("  sourceCheck: skip\n", "");
    let input = input.replace("https://example.org/test/test", "http://127.0.0.1:9/test");
    let output = bench.sandbox.run("apply", &input, &[("PATH", &bench.path)])?;
    assert_eq!(output.status.code(), Some(111), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(reason(&written(&output)?[1]), "SourceUnknown");
    assert_eq!(bench.builds(), [""; 0]);
    assert_eq!(bench.registry.names("test/shared"), [""; 0]);
    Ok(())
}

#[test]
fn manifests_that_wait_for_an_image_are_planned_with_unknown_values() -> Test {
    let mut bench = Bench::new()?;
    bench.sandbox.write("pod/pod.yaml", "kind: Pod\nspec: {containers: [{image: a}]}\n")?;
    bench.sandbox.commit("a pod")?;
    let manifests = bench.sandbox.artifact("pod", "pod", "pods");
    bench.input += &manifests.replace("repository: pods", "repository: pods, images: [a]");

    let (planned, shown) = bench.run("plan", "text")?;
    let of_pod = ["publish manifest (known", "sign and publish ", "create tag (known after apply)"];
    assert_steps(&shown, &[&ALL[..], &of_pod].concat());
    assert_eq!(planned["status"]["observed"]["reference"], "known after apply");

    let (applied, executed) = bench.run("apply", "step")?;
    let of_pod = ["publish manifest sha256:", "sign and publish ", "create tag "];
    assert_steps(&executed, &[&ALL[..], &of_pod].concat());
    assert_eq!(reason(&applied), "Published");
    Ok(())
}

#[test]
fn a_tag_with_the_version_is_that_of_the_package() -> Test {
    let mut bench = Bench::new()?;
    bench.input = bench.input.replace("  image:", "  tags: ['v{version}', latest]\n  image:");
    let (applied, executed) = bench.run("apply", "step")?;
    let of_tags = ["create tag v1.2.3_b4: ", "create tag latest: "];
    assert_steps(&executed, &[&ALL[..], &of_tags].concat());
    assert_eq!(applied["status"]["observed"]["tags"], json!(["v1.2.3_b4", "latest"]));
    Ok(())
}

/// Nix before 2.33 and Lix do not know the flag of the format.
#[test]
fn apply_works_with_a_nix_that_does_not_know_the_json_format() -> Test {
    for is_old in [false, true] {
        let bench = Bench::new()?;
        if is_old {
            fs::write(bench.store.join("old"), "")?;
        }
        let (applied, _) = bench.run("apply", "step")?;
        assert_eq!(reason(&applied), "Published");
    }
    Ok(())
}

/// The flags `submodules=1` and `lfs=1` of Nix fetch what no hash in the commit covers, so there is no field for them.
#[test]
fn a_build_from_a_commit_that_lacks_its_files_is_an_error() -> Test {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    let bench = Bench::new()?;
    let plan = || {
        let output = bench.sandbox.run("plan", &bench.input, &[("PATH", &bench.path)])?;
        Ok::<_, Box<dyn std::error::Error>>((
            reason(&written(&output)?[1]).to_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    assert_eq!(plan()?.0, "Planned");
    bench.sandbox.write("a/asset.bin", pointer)?;
    bench.sandbox.commit("a pointer")?;
    let (reason, said) = plan()?;
    assert_eq!(reason, "NotInCommit");
    assert!(said.contains("asset.bin is a pointer of Git LFS"), "{said}");
    fs::remove_file(bench.sandbox.clone().join("a/asset.bin"))?;
    bench.sandbox.commit("without it")?;
    let head = bench.sandbox.git(&["rev-parse", "HEAD"])?;
    bench.sandbox.git(&[
        "update-index",
        "--add",
        "--cacheinfo",
        &format!("160000,{head},a/module"),
    ])?;
    bench.sandbox.git(&["commit", "-q", "-m", "a submodule"])?;
    fs::create_dir(bench.sandbox.clone().join("a/module"))?;
    let (reason, said) = plan()?;
    assert_eq!(reason, "NotInCommit", "{said}");
    assert!(said.contains("module is a submodule"), "{said}");
    Ok(())
}

// hazard: Private inputs, binary caches and proxies work in the user's shell and not in this program.
// class: A child process inherits an incomplete list of variables.
// members: SSH agents, proxies in capitals, Nix's own files, credentials of caches in S3
// now: all of these reach Nix, and no key or token of this program does
#[test]
fn nix_gets_the_users_settings_and_no_secret_of_this_program() -> Test {
    let bench = Bench::new()?;
    let passed = ["SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "HTTPS_PROXY", "NO_PROXY", "AWS_PROFILE"];
    let passed = [&passed[..], &["NIX_USER_CONF_FILES", "SSL_CERT_DIR", "NIX_SSHOPTS"]].concat();
    let mut variables: Vec<_> = passed.iter().map(|name| (*name, "/here")).collect();
    variables.push(("PATH", &bench.path));
    bench.sandbox.run("plan", &bench.input, &variables)?;
    let environment = fs::read_to_string(bench.store.join("environment"))?;
    for name in passed {
        assert!(environment.contains(&format!("{name}=/here")), "{name}: {environment}");
    }
    for secret in ["ARTIFACT_ATTEST_KEY", "PASSWORD", "sesame"] {
        assert!(!environment.contains(secret), "{secret}");
    }
    Ok(())
}
