//! Builds and runs every output of the flake without a network, with Debian's Nix and the stand-in for
//! nixpkgs, and runs the lifecycle of a project from a template.
//!
//! This is a separate test program with a network of its own, because two labs in one network would
//! use the same addresses. Cargo runs it after the lifecycle, and `tasks/test` in parallel.

mod flux;
mod home;
mod images;
#[path = "../project/mod.rs"]
#[expect(dead_code, reason = "no test program uses every function of this module")]
mod project;

use std::collections::BTreeSet;
use std::fs;

use home::{Home, Machine};
use project::{Test, document, reasons};
use serde_json::Value;

const PROGRAMS: [&str; 5] =
    ["vcs-bootstrap", "artifact-attest", "talos-provision", "flux-seed", "data-drain"];

#[test]
fn a_user_needs_no_tool_but_nix() -> Test {
    let machine = Machine::new()?;
    lock_files_are_up_to_date(&machine)?;
    the_flake_has_every_output(&machine)?;
    a_program_depends_only_on_its_folder_and_shared_folders(&machine)?;
    only_a_release_needs_the_static_platform(&machine)?;
    components_of_the_lab_come_from_nixpkgs_in_the_same_version(&machine)?;
    flux::modules_have_the_declared_hash(&machine)?;
    every_check_builds(&machine)?;
    a_foreign_crate_is_compiled_once(&machine)?;
    archives_hold_what_a_user_installs(&machine)?;
    the_default_package_has_every_program_with_its_pages(&machine)?;
    the_formatter_formats_as_the_check_does(&machine)?;
    every_app_runs(&machine)?;
    the_development_shell_has_what_the_work_needs(&machine)?;
    images::programs_are_published_and_run_as_images(&machine)?;
    templates_fit_together(&machine)?;
    a_source_from_its_template_is_built_and_tested(&machine)?;
    a_project_from_its_template_lives_and_ends(&machine)?;
    assert_eq!(machine.cargo_calls(), "", "no task calls cargo");
    Ok(())
}

/// An outdated lock file would make the first run of a new user fail or change a file.
fn lock_files_are_up_to_date(machine: &Machine) -> Test {
    let locked = machine.tools.sh("git ls-files '*flake.lock' | grep -v templates/project")?;
    for lock in locked.lines() {
        let folder = machine.tools.root().join(lock);
        let folder = folder.parent().ok_or("no folder")?;
        machine.sh(folder, "nix flake metadata --no-update-lock-file .")?;
    }
    assert!(locked.lines().count() >= 4, "{locked}");
    Ok(())
}

fn the_flake_has_every_output(machine: &Machine) -> Test {
    let outputs = machine.json("nix flake show --json $NIXPKGS")?;
    let names = |output: &Value| -> BTreeSet<String> {
        output.as_object().into_iter().flat_map(|entries| entries.keys().cloned()).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let names_of = |output: &str| names(&outputs[output]["x86_64-linux"]);

    let sources = machine.tools.sh("ls sources")?;
    let sources: Vec<&str> = sources.lines().collect();
    let images = PROGRAMS.map(|program| format!("{program}-image"));
    let images = images.each_ref().map(String::as_str);
    let others = ["archives", "default", "lab", "manual"];
    let packages = [&PROGRAMS[..], &sources, &images, &others].concat();
    assert_eq!(names_of("packages"), set(&packages));
    let apps = [
        &PROGRAMS[..],
        &["default", "init", "lab", "lifecycle", "reconstruct", "shell", "sunset", "test"],
    ]
    .concat();
    assert_eq!(names_of("apps"), set(&apps));
    for output in ["packages", "apps"] {
        assert_eq!(names(&outputs[output]["aarch64-darwin"]), set(&PROGRAMS[..4]), "macOS");
    }
    assert_eq!(names_of("devShells"), set(&["default"]));
    assert!(outputs["formatter"]["x86_64-linux"]["name"].is_string(), "{outputs}");
    assert!(
        names_of("checks")
            .is_superset(&set(&[&PROGRAMS[..], &["format", "manual", "tests"]].concat()))
    );
    for source in sources {
        assert!(names_of("checks").contains(&format!("{source}-default")), "{source}");
    }
    assert_eq!(names_of("hydraJobs"), names_of("checks"), "Hydra builds every check");
    a_jobset_builds_them()?;
    let templates = machine.tools.sh("ls templates")?;
    assert_eq!(names(&outputs["templates"]), set(&templates.lines().collect::<Vec<_>>()));
    Ok(())
}

/// Checks the declarative jobsets by the rules of Hydra's `validateDeclarativeJobset`
/// (<https://github.com/NixOS/hydra/blob/master/src/lib/Hydra/Helper/AddBuilds.pm>, 2026-11): the keys
/// that Hydra reads, and for the type 1 a flake and no expression. In a file of objects alone, each
/// object is a jobset.
fn a_jobset_builds_them() -> Test {
    let file = repository_tests::root().join("continuous-integration/hydra.json");
    let jobsets: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    let main = jobsets["main"].as_object().ok_or("no jobset")?;
    let keys: BTreeSet<_> = main.keys().map(String::as_str).collect();
    let read = [
        "checkinterval",
        "description",
        "emailoverride",
        "enabled",
        "enableemail",
        "flake",
        "hidden",
        "inputs",
        "keepnr",
        "schedulingshares",
        "type",
    ];
    assert_eq!(keys, read.into());
    assert_eq!(main["type"], 1);
    assert!(jobsets.as_object().is_some_and(|all| all.values().all(Value::is_object)));
    let readme = fs::read_to_string(repository_tests::root().join("README.md"))?;
    let flake = main["flake"].as_str().ok_or("no flake")?;
    assert!(readme.contains(&format!("nix run {flake}#lifecycle")), "{flake}");
    Ok(())
}

/// Ensures that a change in one program rebuilds and publishes only that program.
fn a_program_depends_only_on_its_folder_and_shared_folders(machine: &Machine) -> Test {
    let all = "nix eval --json $NIXPKGS .#packages.x86_64-linux --apply 'builtins.mapAttrs (_: package: package.drvPath)'";
    let before = machine.json(all)?;
    let changed_by = |files: &[&str]| -> Test<BTreeSet<String>> {
        let paths = files.iter().map(|file| machine.tools.root().join(file));
        let texts: Vec<_> =
            paths.map(|path| Ok((fs::read_to_string(&path)?, path))).collect::<Test<_>>()?;
        for (text, path) in &texts {
            fs::write(path, format!("{text}\n"))?;
        }
        let after = machine.json(all)?;
        for (text, path) in &texts {
            fs::write(path, text)?;
        }
        let programs = PROGRAMS.iter().filter(|name| before[**name] != after[**name]);
        Ok(programs.map(|name| (*name).to_owned()).collect())
    };
    assert_eq!(changed_by(&["tools/flux-seed/src/plan.rs"])?, ["flux-seed".to_owned()].into());
    assert_eq!(changed_by(&["tools/shared/secrets/src/seal.rs"])?.len(), PROGRAMS.len());
    let unused = [
        "tools/flux-seed/tests/cmd.rs",
        "tools/flux-seed/CHANGELOG.md",
        "tools/shared/testing/src/lib.rs",
        "tools/lab/src/up.rs",
        "README.md",
        "project/project.yaml",
    ];
    assert_eq!(changed_by(&unused)?, BTreeSet::new());
    Ok(())
}

/// A static build needs libraries that nixpkgs' cache does not have, so `nix run` must not wait for them.
fn only_a_release_needs_the_static_platform(machine: &Machine) -> Test {
    let evaluate = |arguments: &str, attribute: &str| {
        let expression = format!(
            "let
              pkgs = import (builtins.getFlake \"{}\").outPath {{ }};
              tools = import ./tools ({{ pkgs = pkgs // {{ pkgsStatic = throw \"the static platform\"; }}; }} // {arguments});
            in builtins.deepSeq (map (package: package.drvPath) (builtins.attrValues tools.{attribute} ++ [ tools.lab tools.manual ])) true",
            machine.nixpkgs()
        );
        machine.sh(machine.tools.root(), &format!("nix eval --impure --expr '{expression}'"))
    };
    assert_eq!(evaluate("{ }", "programs")?.trim(), "true");
    let refused = evaluate("{ static = true; }", "images").err().map(|error| error.to_string());
    assert!(refused.is_some_and(|said| said.contains("the static platform")));
    Ok(())
}

/// The stand-in for nixpkgs has no component of the lab, so this nixpkgs has some with a version each.
fn components_of_the_lab_come_from_nixpkgs_in_the_same_version(machine: &Machine) -> Test {
    let module = fs::read_to_string(
        repository_tests::root().join("continuous-integration/components/etcd/go.mod"),
    )?;
    let version = module.split("go.etcd.io/etcd/server/v3 v").nth(1).ok_or("no version")?;
    let minor = version.split('.').take(2).collect::<Vec<_>>().join(".");
    let expression = format!(
        "let
          nixpkgs = (builtins.getFlake \"{}\").outPath;
          pkgs = import nixpkgs {{ }};
          package = version: pkgs.runCommand \"package\" {{ inherit version; }} \"mkdir -p $out/bin; touch $out/bin/etcd\";
          flux = given: pkgs.runCommand given.name {{ }} \"mkdir -p $out/bin; touch $out/bin/source-controller $out/bin/kustomize-controller\";
          others = {{ etcd = package \"{minor}.99\"; kubernetes = package \"1.2.3\"; buildGoModule = flux; }};
        in (import ./tasks {{ pkgs = pkgs // others; tools = import ./tools {{ inherit pkgs; }}; inherit nixpkgs; }}).components",
        machine.nixpkgs()
    );
    let list = format!(
        "cd $(nix-build --no-out-link --expr '{expression}') && find -L . -type f | sort && readlink etcd/server"
    );
    let listed = machine.sh(machine.tools.root(), &list)?;
    let (files, target) = listed.trim().rsplit_once('\n').ok_or("files and a link")?;
    let expected = ["./etcd/server", "./flux/kustomize-controller", "./flux/source-controller"];
    assert_eq!(files, expected.join("\n"), "neither another version nor a package that is absent");
    assert!(target.ends_with("-package/bin/etcd"), "{target}");
    Ok(())
}

fn every_check_builds(machine: &Machine) -> Test {
    // Nix 2.8 locks the outputs of all checks until the last one is built. Other tests build the same sources meanwhile
    // and would wait, so the sources are built by a call of their own.
    let sources = machine.tools.sh("ls sources")?;
    let check = |source: &str| format!(".#{source} .#checks.x86_64-linux.{source}-default");
    let outputs = sources.lines().map(check).collect::<Vec<_>>().join(" ");
    machine.sh(machine.tools.root(), &format!("nix build --no-link $NIXPKGS {outputs}"))?;
    machine.sh(machine.tools.root(), "nix flake check $NIXPKGS")?;
    the_check_of_the_programs_runs_their_tests(machine)
}

fn the_check_of_the_programs_runs_their_tests(machine: &Machine) -> Test {
    let log = "nix log $(nix path-info --derivation $NIXPKGS .#checks.x86_64-linux.tests)";
    let log = plain(&machine.sh(machine.tools.root(), log)?);
    let crates = log.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    let passed = crates.filter_map(|line| line.split(' ').next()?.parse::<u32>().ok());
    assert!(passed.sum::<u32>() > 500, "{log}");
    for program in PROGRAMS {
        assert!(log.contains(&format!("/{}-", program.replace('-', "_"))), "{program}: {log}");
    }
    Ok(())
}

/// Counts the crates that cargo compiled in each derivation, in the logs that Nix keeps.
fn a_foreign_crate_is_compiled_once(machine: &Machine) -> Test {
    let root = machine.tools.root();
    let outputs = [&PROGRAMS[..], &["lab"]]
        .concat()
        .iter()
        .map(|name| format!(".#{name}"))
        .collect::<Vec<_>>();
    let programs = format!("nix path-info --derivation $NIXPKGS {}", outputs.join(" "));
    let programs = machine.sh(root, &programs)?;
    // Cargo prints the path of each crate of the workspace.
    let foreign = |derivation: &str| -> Test<BTreeSet<String>> {
        let log = plain(&machine.sh(root, &format!("nix log {derivation}"))?);
        assert!(log.contains("Finished `release` profile"), "{derivation}: {log}");
        let crates = log.lines().filter_map(|line| line.trim_start().strip_prefix("Compiling "));
        Ok(crates.filter(|line| !line.contains('(')).map(str::to_owned).collect())
    };
    let needed = format!("nix-store --query --requisites {}", programs.replace('\n', " "));
    let needed = machine.sh(root, &needed)?;
    let one = |name: &str| needed.lines().find(|path| path.contains(name)).ok_or("no derivation");
    let compiled = foreign(one("-holistic-dependencies-")?)?;
    assert!(compiled.len() > 200, "{compiled:?}");
    for derivation in programs.lines().chain([one("-holistic-shared-")?]) {
        assert_eq!(foreign(derivation)?, BTreeSet::new(), "{derivation}");
    }
    Ok(())
}

/// Returns `text` without the colours that cargo and its tests print because a builder of Nix has a terminal.
fn plain(text: &str) -> String {
    let text = text.replace("\u{1b}(B", "");
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| part.split_once('m').map_or("", |(_, rest)| rest));
    [first].into_iter().chain(rest).collect()
}

fn the_default_package_has_every_program_with_its_pages(machine: &Machine) -> Test {
    let root = machine.tools.root();
    machine.sh(root, "nix build $NIXPKGS")?;
    for program in PROGRAMS {
        for page in [
            format!("bin/{program}"),
            format!("share/man/man1/{program}.1"),
            format!("share/man/man1/{program}-apply.1"),
            format!("share/bash-completion/completions/{program}"),
        ] {
            assert!(root.join("result").join(&page).is_file(), "{page}");
        }
    }
    Ok(())
}

/// Unpacks each archive of a release into a root directory that holds nothing else.
fn archives_hold_what_a_user_installs(machine: &Machine) -> Test {
    let root = machine.tools.root();
    let archives = machine.json("nix build --json --no-link $NIXPKGS .#archives")?;
    let archives = archives[0]["outputs"]["out"].as_str().ok_or("no output")?.to_owned();
    let again = format!(
        "nix build --rebuild --no-link $NIXPKGS .#archives && cd {archives} && sha256sum --check --quiet SHA256SUMS-x86_64-linux"
    );
    machine.sh(root, &again)?;
    for program in PROGRAMS {
        let bill = format!("{archives}/{program}-x86_64-linux.cdx.json");
        let bill: Value = serde_json::from_str(&fs::read_to_string(bill)?)?;
        assert_eq!(bill["metadata"]["component"]["name"], program);
        let install = format!(
            "rm -rf installed && mkdir installed && tar -xzf {archives}/{program}-x86_64-linux.tar.gz -C installed
            cat installed/share/doc/{program}/LICENSE-MIT installed/share/man/man1/{program}.1 installed/share/bash-completion/completions/{program} >/dev/null
            chroot installed /bin/{program} --version"
        );
        let version = machine.sh(&machine.folder("elsewhere")?, &install)?;
        assert!(version.starts_with(&format!("{program} ")), "{version}");
        // The pattern of a home requires a dot, because neighbouring constants such as "/spec/root" and
        // "/spec" look like a path under /root.
        let search = format!(
            "grep -a -o -E '(/nix/store/[0-9a-z]{{32}}-|/root/\\.|/home/).{{0,80}}' installed/bin/{program} || true"
        );
        let found = machine.sh(&machine.folder("elsewhere")?, &search)?;
        assert_eq!(found, "", "{program} contains no path of this machine");
    }
    Ok(())
}

/// `nix fmt` changes nothing in a checkout that the check `format` accepts.
fn the_formatter_formats_as_the_check_does(machine: &Machine) -> Test {
    let root = machine.tools.root();
    let spoil =
        "cp tools/flux-seed/src/main.rs kept && printf '\\n\\n' >>tools/flux-seed/src/main.rs";
    machine.sh(
        root,
        &format!("{spoil} && nix fmt $NIXPKGS && cmp kept tools/flux-seed/src/main.rs && rm kept"),
    )?;
    Ok(())
}

/// Runs every app, because Nix checks an app only when it runs.
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
    let tools = "for tool in rustc cargo-clippy rustfmt jq git; do command -v $tool; done";
    machine.sh(machine.tools.root(), &format!("nix develop $NIXPKGS -c bash -euc '{tools}'"))?;
    Ok(())
}

/// Files that two templates share are equal.
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

/// The project is not edited. Its tools are Nix's output, which the flake's input builds as well.
fn a_project_from_its_template_lives_and_ends(machine: &Machine) -> Test {
    let tools = machine.tools.root().join("result").canonicalize()?;
    let home = Home { machine, folder: machine.folder("example")?, tools };
    home.sh("nix flake init --template $TOOLS#project
        chmod +x tasks/* # as the template's README says
        test -s .github/workflows/apply.yaml # the command copies hidden folders as well
        git init --quiet --initial-branch=main
        git config user.name tester
        git config user.email tester@example.org
        git add --all
        git commit --quiet -m 'From the template'")?;
    let both = "--override-input holistic $TOOLS $NIXPKGS";
    home.sh(&format!("nix flake check {both}"))?;
    // First the app, which every project gets from the tools; then the task, which has nothing to do.
    home.sh(&format!("nix run {both} .#lifecycle"))?;
    home.sh("tasks/lifecycle")?;
    let documents = home.folder.join(".lab/documents.json");
    all_ready(&fs::read_to_string(&documents)?)?;
    let ask = "jq -r 'select(.kind == \"Cluster\").status.sealed.kubeconfig' .lab/documents.json \
        | age --decrypt -i project/test-identity.txt >.lab/kubeconfig
        $LAB_CACHE/bin/kubectl --kubeconfig .lab/kubeconfig get --raw /api/v1/namespaces/default/services/hello:80/proxy/";
    assert_eq!(home.sh(ask)?, "hello\n");
    a_second_cluster_and_what_runs_in_it_are_two_templates_more(&home)?;
    overrides_in_the_folder_lab_reach_the_programs(&home)?;

    home.sh("tasks/sunset --yes")?;
    let sunset = fs::read_to_string(home.folder.join(".lab/sunset.json"))?;
    assert!(reasons(&sunset)?.contains(&"Cluster prod False Destroyed".to_owned()), "{sunset}");
    assert_eq!(home.sh("git status --porcelain")?, "", "the lab leaves no file in the repository");
    Ok(())
}

/// Plans without applying, because the lifecycle test covers `apply`.
fn a_second_cluster_and_what_runs_in_it_are_two_templates_more(home: &Home<'_>) -> Test {
    let planned = home.sh(
        "for pair in cluster:machines deployment:deployments; do
          mkdir ${pair#*:}/staging
          (cd ${pair#*:}/staging && nix flake init --template $TOOLS#${pair%:*})
        done
        git add --all
        git commit --quiet -m 'Staging'
        export PATH=$HOLISTIC/bin:$PATH SOPS_AGE_KEY_FILE=project/test-identity.txt
        { jq -c 'select(.kind == \"Project\")' .lab/lab.json; cat project/repository.yaml; } >.lab/project.yaml
        artifact-attest plan .lab/project.yaml sources machines deployments | talos-provision plan | flux-seed plan",
    )?;
    for (kind, name) in [("Artifact", "staging"), ("Cluster", "staging"), ("Delivery", "staging")] {
        let plan = document(&planned, kind, name)?["status"]["plan"].take();
        assert!(plan.as_array().is_some_and(|steps| !steps.is_empty()), "{kind} {name}: {plan}");
    }
    home.sh("git reset --quiet --hard HEAD~1")?;
    Ok(())
}

fn overrides_in_the_folder_lab_reach_the_programs(home: &Home<'_>) -> Test {
    home.sh(
        "mkdir lab
        printf '%s\n' 'apiVersion: holistic/v1alpha1' 'kind: Delivery' 'metadata: {name: prod}' 'spec: {timeoutSeconds: 299}' >lab/overrides.yaml
        tasks/lifecycle
        rm -r lab
        jq -es 'any(.kind == \"Delivery\" and .spec.timeoutSeconds == 299)' .lab/documents.json",
    )?;
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
