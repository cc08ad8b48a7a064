//! Pods from a private registry, whose credentials are in the configurations of the machines.
//!
//! Needs `docker-registry` and `gcc`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::harness::{Harness, until};
use super::{binaries, kubectl};

/// Address of the registry, from which the machines pull the image of every pod's sandbox, too.
const REGISTRY: &str = "127.74.0.3:5000";
const PASSWORD: &str = "correct-horse-battery";
/// Password file of the registry: `htpasswd -nbB robot correct-horse-battery`.
const PASSWORDS: &str = "robot:$2b$10$A0NDX9EKntlh1SXyqWMtAuXdmxQ1a8in.udEPua.9YRr6RaJYI.cO\n";
/// The base64 text of `robot:correct-horse-battery`.
const BASIC: &str = "cm9ib3Q6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5";

/// Registry with an image that only the user `robot` may pull.
struct Registry(Child);

impl Registry {
    fn start(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\nauth: {{htpasswd: {{realm: lab, path: {}}}}}\n",
            path("registry"),
            path("htpasswd")
        );
        let login = format!("{{\"auths\": {{\"{REGISTRY}\": {{\"auth\": \"{BASIC}\"}}}}}}");
        let source = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
        for (name, text) in [
            ("registry.yml", config.as_str()),
            ("htpasswd", PASSWORDS),
            ("config.json", &login),
            ("pause.c", source),
        ] {
            fs::write(folder.join(name), text).expect("written");
        }
        let mut command = Command::new("docker-registry");
        command.args(["serve", &path("registry.yml")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self(command.spawn().expect("docker-registry starts"));
        let run = |program: &Path, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.current_dir(folder).env("DOCKER_CONFIG", folder).args(arguments);
            command.output().expect("the program runs").status.success()
        };
        assert!(run(Path::new("gcc"), &["-static", "-Os", "-o", "pause", "pause.c"]));
        assert!(run(Path::new("tar"), &["cf", "pause.tar", "pause"]));
        let crane = binaries().join("crane");
        let (raw, image) = (format!("{REGISTRY}/pause:0"), format!("{REGISTRY}/pause:1"));
        let append = ["append", "--insecure", "--oci-empty-base", "-f", "pause.tar", "-t", &raw];
        until("the registry", || run(&crane, &append));
        let mutate = ["mutate", "--insecure", &raw, "--entrypoint", "/pause"];
        let mutate = [&mutate[..], &["--set-platform", "linux/amd64", "-t", &image]].concat();
        assert!(run(&crane, &mutate));
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// hazard: Changed credentials of a registry are on the machine, and containerd does not use them.
// class: A change counts as done because it was accepted.
// members: credentials of a document, of `machine.registries`, new, changed and removed credentials
// now: a machine whose credentials change restarts, and its pods pull with them
pub(super) fn a_pod_starts_once_the_credentials_of_its_registry_are_declared(harness: &Harness) {
    let folder = harness.folder.path();
    let _registry = Registry::start(folder);
    let image = format!("run private --restart=Never --image={REGISTRY}/pause:1");
    kubectl(folder, &image);
    until("a pull without credentials to fail", || {
        let events = kubectl(folder, "get events -o jsonpath={.items[*].message}");
        events.contains("Failed to create pod sandbox") && events.contains("/pause:1")
    });

    fs::write(folder.join("pull-password"), PASSWORD).expect("written");
    let document = fs::read_to_string(folder.join("cluster.yaml")).expect("the document");
    let registries = format!(
        "  registries: {{config: {{'{REGISTRY}': {{auth: {{username: robot, password: {{file: pull-password}}}}}}}}}}\n"
    );
    fs::write(folder.join("cluster.yaml"), document + &registries).expect("written");
    for verb in ["plan", "apply", "verify"] {
        let end = harness.run(verb).code(0);
        for shown in [&end.out, &end.err] {
            assert!(!shown.contains(PASSWORD) && !shown.contains(BASIC), "{verb}: {shown}");
        }
    }
    until("the pod to run", || {
        kubectl(folder, "get pod private -o jsonpath={.status.phase}") == "Running"
    });
    kubectl(folder, "delete pod private --grace-period=1");
}
