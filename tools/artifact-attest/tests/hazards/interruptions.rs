//! Evaluations and builds end with the run that has started them, and what they made stays in the store until then.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testing::wait::poll;

use crate::builds::Bench;
use crate::stub::{Result, Test, reason, written};

/// Longest wait for a process to start or to end. The grace period before SIGKILL is ten seconds.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Whether a process exists and is no zombie.
fn is_running(process: &str) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

/// Starts `apply`, and waits until the stand-in for Nix has written the process id of its endless work to `file`.
fn start(bench: &Bench, file: &str) -> Result<(Child, String)> {
    let variables = [("PATH", bench.path.as_str())];
    let mut command = bench.sandbox.command("apply", &bench.input, &variables)?;
    let run = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let process = poll(WAIT_MAX, || {
        let id = fs::read_to_string(bench.store.join(file)).ok()?;
        id.ends_with('\n').then(|| id.trim().to_owned())
    });
    Ok((run, process.ok_or("Nix has not been started")?))
}

fn has_ended(process: &str) -> bool {
    poll(WAIT_MAX, || (!is_running(process)).then_some(())).is_some()
}

// hazard: An evaluation that never ends blocks a job for ever, and Nix stays when the job is cancelled.
// class: A child process outlives its run.
// members: evaluations, builds, a run that is killed, children of children
// now: the time limit and every signal end the whole process group
#[test]
fn an_evaluation_without_an_end_is_ended_at_the_time_limit() -> Test {
    let mut bench = Bench::new()?;
    fs::write(bench.store.join("endless"), "")?;
    bench.input = bench.input.replace("{flake: ./a}", "{flake: ./a, timeoutSeconds: 1}");
    let output = bench.sandbox.run("plan", &bench.input, &[("PATH", &bench.path)])?;
    assert_eq!(output.status.code(), Some(111), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(reason(&written(&output)?[1]), "TimedOut");
    let process = fs::read_to_string(bench.store.join("evaluation"))?;
    assert!(has_ended(process.trim()));
    Ok(())
}

#[test]
fn an_interruption_ends_the_evaluation_or_the_build_at_once() -> Test {
    for (endless, file) in [("endless", "evaluation"), ("endless-build", "build")] {
        let bench = Bench::new()?;
        fs::write(bench.store.join(endless), "")?;
        let (run, process) = start(&bench, file)?;
        Command::new("kill").args(["-TERM", &run.id().to_string()]).status()?;
        let output = run.wait_with_output()?;
        assert_eq!(output.status.code(), Some(111), "{file}");
        assert_eq!(reason(&written(&output)?[1]), "Interrupted", "{file}");
        assert!(has_ended(&process), "{file}");
        assert_eq!(bench.registry.names("test/shared"), [""; 0]);
    }
    Ok(())
}

#[test]
fn a_killed_run_leaves_no_build_and_no_root_of_the_garbage_collector() -> Test {
    let bench = Bench::new()?;
    fs::write(bench.store.join("endless-build"), "")?;
    let (mut run, process) = start(&bench, "build")?;
    let link = fs::read_to_string(bench.store.join("link"))?;
    assert!(fs::symlink_metadata(link.trim()).is_ok());
    run.kill()?;
    run.wait()?;
    assert!(has_ended(&process));
    let is_gone = || fs::symlink_metadata(link.trim()).is_err().then_some(());
    assert!(poll(WAIT_MAX, is_gone).is_some(), "{link}");
    Ok(())
}

// hazard: The garbage collector removes a result between its build and its upload.
// class: What a run depends on is not protected.
// members: a result that another run has built, all outputs, the time between two builds
// now: a root of the garbage collector from before the closure is read until the end of the run
#[test]
fn a_result_has_a_root_while_it_is_read_and_none_afterwards() -> Test {
    let bench = Bench::new()?;
    for _ in 0..2 {
        let output = bench.sandbox.run("apply", &bench.input, &[("PATH", &bench.path)])?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let roots = fs::read_to_string(bench.store.join("roots"))?;
        let result = bench.store.join("greeter").display().to_string();
        assert!(!roots.is_empty() && roots.lines().all(|root| root == result), "{roots}");
        let link = fs::read_to_string(bench.store.join("link"))?;
        assert!(fs::symlink_metadata(link.trim()).is_err(), "{link}");
        // The next run finds the result in the store, and builds nothing.
        bench.registry.with(|all| all.manifests.clear());
    }
    Ok(())
}
