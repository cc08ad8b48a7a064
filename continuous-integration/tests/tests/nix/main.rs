//! What a person with Nix gets: every output of the flake, built and run without a network, by
//! Debian's Nix and the stand-in for nixpkgs; and the whole life of a project from a template.
//!
//! A test program of its own, which cargo runs after the lifecycle, and `tasks/test` beside it, in a
//! network of its own: two labs in one would be in each other's way.

mod home;
#[path = "../project/mod.rs"]
#[expect(dead_code, reason = "the lifecycle asks more of a project than this")]
mod project;

use std::collections::BTreeSet;
use std::fs;

use home::{Home, Machine};
use project::{Test, document, reasons};
use serde_json::Value;

const PROGRAMS: [&str; 5] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain"];

#[test]
fn a_person_with_nix_needs_nothing_else() -> Test {
    let machine = Machine::new()?;
    locks_fit(&machine)?;
    every_output_is_there(&machine)?;
    a_program_is_made_of_its_own_folder_and_what_all_share(&machine)?;
    every_check_builds(&machine)?;
    a_program_is_one_static_file_with_its_pages(&machine)?;
    every_app_runs(&machine)?;
    the_development_shell_has_what_the_work_needs(&machine)?;
    programs_are_published_as_images(&machine)?;
    templates_fit_together(&machine)?;
    a_source_from_its_template_is_built_and_tested(&machine)?;
    a_project_from_its_template_lives_and_ends(&machine)?;
    assert_eq!(machine.cargo_calls(), "", "no task calls cargo");
    Ok(())
}

/// Otherwise the first run of a newcomer would change a file, or be refused.
fn locks_fit(machine: &Machine) -> Test {
    let locked = machine.tools.sh("git ls-files '*flake.lock' | grep -v templates/project")?;
    for lock in locked.lines() {
        let folder = machine.tools.root().join(lock);
        let folder = folder.parent().ok_or("no folder")?;
        machine.sh(folder, "nix flake metadata --no-update-lock-file .")?;
    }
    assert!(locked.lines().count() >= 4, "{locked}");
    Ok(())
}

fn every_output_is_there(machine: &Machine) -> Test {
    let outputs = machine.json("nix flake show --json $NIXPKGS")?;
    let names = |output: &Value| -> BTreeSet<String> {
        output.as_object().into_iter().flat_map(|it| it.keys().cloned()).collect()
    };
    let set = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
    let of = |output: &str| names(&outputs[output]["x86_64-linux"]);

    let sources = machine.tools.sh("ls sources")?;
    let sources: Vec<&str> = sources.lines().collect();
    let packages = [&PROGRAMS[..], &sources, &["default", "lab", "manual"]].concat();
    assert_eq!(of("packages"), set(&packages));
    let apps =
        [&PROGRAMS[..], &["default", "init", "lab", "lifecycle", "reconstruct", "sunset", "test"]]
            .concat();
    assert_eq!(of("apps"), set(&apps));
    assert_eq!(of("devShells"), set(&["default"]));
    assert!(of("checks").is_superset(&set(&[&PROGRAMS[..], &["format", "manual"]].concat())));
    for source in sources {
        assert!(of("checks").contains(&format!("{source}-default")), "{source}");
    }
    assert_eq!(of("hydraJobs"), of("checks"), "Hydra builds what is checked");
    let templates = machine.tools.sh("ls templates")?;
    assert_eq!(names(&outputs["templates"]), set(&templates.lines().collect::<Vec<_>>()));
    Ok(())
}

/// So that a change in one program is built, attested and published as a change of that one.
fn a_program_is_made_of_its_own_folder_and_what_all_share(machine: &Machine) -> Test {
    let all = "nix eval --json $NIXPKGS .#packages.x86_64-linux --apply 'builtins.mapAttrs (_: it: it.drvPath)'";
    let before = machine.json(all)?;
    let changed_by = |files: &[&str]| -> Test<BTreeSet<String>> {
        let paths = files.iter().map(|it| machine.tools.root().join(it));
        let texts: Vec<_> =
            paths.map(|it| Ok((fs::read_to_string(&it)?, it))).collect::<Test<_>>()?;
        for (text, path) in &texts {
            fs::write(path, format!("{text}\n"))?;
        }
        let after = machine.json(all)?;
        for (text, path) in &texts {
            fs::write(path, text)?;
        }
        let programs = PROGRAMS.iter().filter(|it| before[**it] != after[**it]);
        Ok(programs.map(|it| (*it).to_owned()).collect())
    };
    assert_eq!(changed_by(&["tools/flux-seed/src/plan.rs"])?, ["flux-seed".to_owned()].into());
    assert_eq!(changed_by(&["tools/shared/secrets/src/seal.rs"])?.len(), PROGRAMS.len());
    let nobodys = [
        "tools/flux-seed/tests/cmd.rs",
        "tools/lab/src/up.rs",
        "README.md",
        "project/project.yaml",
    ];
    assert_eq!(changed_by(&nobodys)?, BTreeSet::new());
    Ok(())
}

fn every_check_builds(machine: &Machine) -> Test {
    machine.sh(machine.tools.root(), "nix flake check $NIXPKGS")?;
    Ok(())
}

fn a_program_is_one_static_file_with_its_pages(machine: &Machine) -> Test {
    let root = machine.tools.root();
    for program in PROGRAMS {
        let build = format!("nix build --json --no-link $NIXPKGS .#{program}");
        let outputs = machine.json(&build)?[0]["outputs"].take();
        let out = outputs["out"].as_str().ok_or("no output")?;
        let closure = machine.sh(root, &format!("nix-store --query --requisites {out}"))?;
        assert_eq!(closure.trim(), out, "{program} refers to nothing else");
        // Homes begin with a dot: constants lie side by side, and "/spec/root" with "/spec" behind it is no path.
        let search = format!(
            "grep -a -o -E '(/nix/store/[0-9a-z]{{32}}-|/root/\\.|/home/).{{0,80}}' {out}/bin/{program} || true"
        );
        assert_eq!(machine.sh(root, &search)?, "", "{program} names no path of this machine");
        // Where there is nothing but that file.
        let alone = format!(
            "mkdir -p alone && cp {out}/bin/{program} alone && chroot alone /{program} --help && rm -r alone"
        );
        let help = machine.sh(&machine.folder("nowhere")?, &alone)?;
        assert!(help.contains(&format!("Usage: {program}")), "{help}");
    }
    machine.sh(root, "nix build $NIXPKGS")?;
    for program in PROGRAMS {
        for page in [
            format!("share/man/man1/{program}.1"),
            format!("share/man/man1/{program}-apply.1"),
            format!("share/bash-completion/completions/{program}"),
        ] {
            assert!(root.join("result").join(&page).is_file(), "{page}");
        }
    }
    Ok(())
}

/// Nix takes anything for an app until it is run.
fn every_app_runs(machine: &Machine) -> Test {
    let outputs = machine.json("nix flake show --json $NIXPKGS")?;
    for app in outputs["apps"]["x86_64-linux"].as_object().ok_or("no apps")?.keys() {
        let run = format!("nix run $NIXPKGS .#{app} -- --help");
        let help = machine.sh(machine.tools.root(), &run)?;
        assert!(help.lines().count() >= 2, "{app}: {help}");
    }
    Ok(())
}

fn the_development_shell_has_what_the_work_needs(machine: &Machine) -> Test {
    let tools = "for it in rustc cargo-clippy rustfmt jq git; do command -v $it; done";
    machine.sh(machine.tools.root(), &format!("nix develop $NIXPKGS -c bash -euc '{tools}'"))?;
    Ok(())
}

/// By one of them, which builds the others, and itself, as it builds any source: twice.
fn programs_are_published_as_images(machine: &Machine) -> Test {
    let root = machine.tools.root();
    let plan = "export SOPS_AGE_KEY_FILE=project/test-identity.txt
        { nix run $NIXPKGS .#lab -- up project; cat tools/artifacts.yaml; } \
        | nix run $NIXPKGS .#artifact-attest -- plan";
    let planned = machine.sh(root, plan)?;
    for program in PROGRAMS {
        let plan = document(&planned, "Artifact", program)?["status"]["plan"].take();
        assert!(plan[0].to_string().contains(program), "{program}: {plan}");
    }
    fs::write(root.join(".lab/images.json"), planned)?;
    let apply = "export SOPS_AGE_KEY_FILE=project/test-identity.txt
        jq -c 'select(.kind != \"Artifact\" or .metadata.name == \"artifact-attest\")
          | if .kind == \"Artifact\" then .spec.sourceCheck = \"skip\" else . end' .lab/images.json \
        | nix run $NIXPKGS .#artifact-attest -- apply";
    let applied = machine.sh(root, apply)?;
    all_ready(&applied)?;
    let observed = document(&applied, "Artifact", "artifact-attest")?["status"]["observed"].take();
    assert_eq!(observed["reproducible"], true);
    let reference = observed["reference"].as_str().ok_or("no reference")?;
    let run = format!(
        "mkdir image; $LAB_CACHE/bin/crane --insecure export {reference} - | tar -x -C image --no-same-owner; chroot image /bin/artifact-attest --version"
    );
    assert!(machine.sh(&machine.folder("pulled")?, &run)?.starts_with("artifact-attest "));
    machine.sh(root, "nix run $NIXPKGS .#lab -- down --wipe")?;
    Ok(())
}

/// What is in two templates is the same in both.
fn templates_fit_together(machine: &Machine) -> Test {
    machine.tools.sh(
        r#"cd templates
        diff --recursive source project/sources/hello
        same() { diff --recursive <(cd "$1"; cat $(find . -type f | sort) | sed s/staging/prod/g) <(cd "$2"; cat $(find . -type f | sort)); }
        same cluster project/machines/prod
        same deployment project/deployments/prod
        keys() { sed -n '/^---$/,/^---$/ s/:.*//p' "$1"; grep '^## ' "$1"; }
        for record in ../knowledge/decisions/*.md; do diff <(keys decision/*.md) <(keys "$record"); done"#,
    )?;
    Ok(())
}

fn a_source_from_its_template_is_built_and_tested(machine: &Machine) -> Test {
    let folder = machine.folder("hello")?;
    machine.sh(
        &folder,
        "nix flake init --template $TOOLS#source && nix flake check $NIXPKGS path:.",
    )?;
    Ok(())
}

/// Without an edit; the tools are what Nix has made of them, the flake's input says the same.
fn a_project_from_its_template_lives_and_ends(machine: &Machine) -> Test {
    let tools = machine.tools.root().join("result").canonicalize()?;
    let home = Home { machine, folder: machine.folder("example")?, tools };
    home.sh("nix flake init --template $TOOLS#project
        chmod +x tasks/* # as it says
        git init --quiet --initial-branch=main
        git config user.name tester
        git config user.email tester@example.org
        git add --all
        git commit --quiet -m 'From the template'")?;
    let both = "--override-input holistic $TOOLS $NIXPKGS";
    home.sh(&format!("nix flake check {both}"))?;
    // The app that every project has from the tools; then the task, which finds nothing left to do.
    home.sh(&format!("nix run {both} .#lifecycle"))?;
    home.sh("tasks/lifecycle")?;
    let documents = home.folder.join(".lab/documents.json");
    all_ready(&fs::read_to_string(&documents)?)?;
    let ask = "jq -r 'select(.kind == \"Cluster\").status.sealed.kubeconfig' .lab/documents.json \
        | age --decrypt -i project/test-identity.txt >.lab/kubeconfig
        $LAB_CACHE/bin/kubectl --kubeconfig .lab/kubeconfig get --raw /api/v1/namespaces/default/services/hello:80/proxy/";
    assert_eq!(home.sh(ask)?, "hello\n");
    a_second_cluster_and_what_runs_in_it_are_two_templates_more(&home)?;

    home.sh("tasks/sunset")?;
    let sunset = fs::read_to_string(home.folder.join(".lab/sunset.json"))?;
    assert!(reasons(&sunset)?.contains(&"Cluster prod False Destroyed".to_owned()), "{sunset}");
    assert_eq!(home.sh("git status --porcelain")?, "", "nothing of it is left in the repository");
    Ok(())
}

/// Planned only: what the lifecycle does with documents is known.
fn a_second_cluster_and_what_runs_in_it_are_two_templates_more(home: &Home<'_>) -> Test {
    let planned = home.sh(
        "for it in cluster:machines deployment:deployments; do
          mkdir ${it#*:}/staging
          (cd ${it#*:}/staging && nix flake init --template $TOOLS#${it%:*})
        done
        git add --all
        git commit --quiet -m 'Staging'
        export PATH=$HOLISTIC/bin:$PATH SOPS_AGE_KEY_FILE=project/test-identity.txt
        { jq -c 'select(.kind == \"Project\")' .lab/lab.json; cat project/repository.yaml; } >.lab/project.yaml
        artifact-attest plan .lab/project.yaml sources machines deployments | talos-provision plan | flux-seed plan",
    )?;
    for (kind, name) in [("Artifact", "staging"), ("Cluster", "staging"), ("Delivery", "staging")] {
        let plan = document(&planned, kind, name)?["status"]["plan"].take();
        assert!(plan.as_array().is_some_and(|it| !it.is_empty()), "{kind} {name}: {plan}");
    }
    home.sh("git reset --quiet --hard HEAD~1")?;
    Ok(())
}

fn all_ready(text: &str) -> Test {
    let reasons = reasons(text)?;
    assert!(!reasons.is_empty());
    for line in reasons {
        assert!(line.contains(" True "), "{line}");
    }
    Ok(())
}
