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
