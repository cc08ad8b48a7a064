//! A Drain document with a receipt, signed like data-drain's.

use std::fs;
use std::path::Path;

use ::git::{Origin as GitOrigin, Url};
use contract::{Copied, Drained, Pack, Projects, Receipt, Source};
use data_encoding::HEXLOWER;
use documents::Stream;
use secrets::Secret;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::common::{ROOT, Sandbox, Test};

/// Writes a Drain in front of the document of the repository `name`. Its receipt covers the
/// references that the forge lists now.
pub(crate) fn write(sandbox: &Sandbox, name: &str, url: String, token: &str) -> Test {
    let (url, token) = (Url::try_from(url)?, Secret::new(token.into()));
    let origin = GitOrigin { url: &url, token: &token };
    let list = ["ls-remote", "--quiet", url.as_str()];
    let listed = ::git::run(&list, Path::new("/"), Some(&origin))?;
    assert!(listed.success, "{}", listed.message());
    let pack = || Pack { object: "packs/0".to_owned(), sha256: "00".repeat(32), bytes: 1 };
    let from = Source::Forge {
        repository: name.to_owned(),
        refs: HEXLOWER.encode(&Sha256::digest(&listed.text)),
    };
    let (fingerprint, packs, manifest) = ("22".repeat(32), vec![pack()], pack());
    let receipt = Receipt {
        project: "lab".to_owned(),
        drain: "prod".to_owned(),
        cluster: Drained { name: "prod".to_owned(), uid: "of the cluster".to_owned() },
        run: "11".repeat(32),
        bucket: "drain".to_owned(),
        recipients: Vec::new(),
        sources: vec![Copied {
            from,
            fingerprint,
            bytes: 1,
            entries: 1,
            not_kept: Vec::new(),
            packs,
            manifest,
        }],
    };
    let root = sandbox.path().join("root");
    fs::write(&root, ROOT)?;
    let project = fs::read_to_string(sandbox.path().join("project.yaml"))?;
    let file = sandbox.path().join("signer.yaml");
    fs::write(&file, project.replace("{env: ROOT}", &format!("{{file: {}}}", root.display())))?;
    let mut stream = Stream::read(&[file]);
    let projects = Projects::read(&mut stream);
    stream.accept()?;
    let key = contract::phase_key(projects.get("lab")?, "data-drain")?;
    let drain = json!({
        "apiVersion": "holistic/v1alpha1", "kind": "Drain", "metadata": {"name": "prod"},
        "spec": {"cluster": "prod", "sources": [{"forge": name}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "Drained", "message": ""}],
            "evidence": [{"type": "receipt", "envelope": receipt.sign(&key)?}],
        },
    });
    let file = sandbox.path().join("repository.yaml");
    let repository = fs::read_to_string(&file)?;
    Ok(fs::write(&file, format!("---\n{drain}\n{repository}"))?)
}
