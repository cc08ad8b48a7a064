//! The files that a package of the programs would install.

use std::error::Error;
use std::fs;
use std::process::Command;

use assert_cmd::cargo::cargo_bin_cmd;

const PROGRAMS: [&str; 6] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain", "lab"];

#[test]
fn every_program_has_a_manual_page_and_completions_that_shells_accept() -> Result<(), Box<dyn Error>>
{
    let folder = tempfile::tempdir()?;
    cargo_bin_cmd!("manual").arg(folder.path()).assert().success();
    let share = folder.path().join("share");
    for program in PROGRAMS {
        let completion = share.join("bash-completion/completions").join(program);
        assert!(Command::new("bash").arg("-n").arg(&completion).status()?.success(), "{program}");
        // The same call that bash makes when a user presses Tab after the program's name.
        let words = format!(
            "source {}; [[ $(complete -p {program}) =~ -F\\ ([^ ]+) ]]
            COMP_WORDS=({program} ''); COMP_CWORD=1
            ${{BASH_REMATCH[1]}} {program} '' {program}; echo ${{COMPREPLY[@]}}",
            completion.display(),
        );
        let offered = Command::new("bash").args(["-c", &words]).output()?;
        let offered = String::from_utf8(offered.stdout)?;
        let verb = if program == "lab" { "up" } else { "apply" };
        assert!(offered.split_whitespace().any(|word| word == verb), "{program}: {offered}");
        for other in [
            format!("zsh/site-functions/_{program}"),
            format!("fish/vendor_completions.d/{program}.fish"),
        ] {
            assert!(fs::read_to_string(share.join(&other))?.contains(program), "{other}");
        }
        let page = fs::read_to_string(share.join(format!("man/man1/{program}.1")))?;
        assert!(page.contains(".TH ") && page.contains(".SH DESCRIPTION"), "{page}");
        let page = fs::read_to_string(share.join(format!("man/man1/{program}-{verb}.1")))?;
        assert!(page.contains("standard input"), "{page}");
    }
    Ok(())
}

#[test]
fn every_program_prints_the_completions_of_its_own_command_line() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    cargo_bin_cmd!("manual").arg(folder.path()).assert().success();
    let test = std::env::current_exe()?;
    let programs = test.ancestors().nth(2).ok_or("the test is not in a folder of cargo")?;
    for program in PROGRAMS.into_iter().filter(|program| *program != "lab") {
        let page = folder.path().join(format!("share/man/man1/{program}-completion.1"));
        assert!(fs::read_to_string(&page)?.contains("elvish"), "{}", page.display());
        for (shell, definition) in [
            ("bash", "complete -F "),
            ("zsh", "#compdef "),
            ("fish", "complete -c "),
            ("elvish", "set edit:completion:arg-completer["),
            ("powershell", "Register-ArgumentCompleter "),
        ] {
            let output =
                Command::new(programs.join(program)).args(["completion", shell]).output()?;
            assert!(output.status.success() && output.stderr.is_empty(), "{program} {shell}");
            let script = String::from_utf8(output.stdout)?;
            assert!(script.contains(definition), "{program} {shell}: {script}");
            for word in [program, "completion", "log-format"] {
                assert!(script.contains(word), "{program} {shell} lacks {word}");
            }
            if shell == "bash" {
                let file = folder.path().join("script");
                fs::write(&file, &script)?;
                assert!(Command::new(shell).arg("-n").arg(&file).status()?.success(), "{program}");
            }
        }
        let other = Command::new(programs.join(program)).args(["completion", "csh"]).output()?;
        assert_eq!(other.status.code(), Some(2), "{program}");
    }
    Ok(())
}
