//! Receipts: manipulations that must not lead to the deletion of the only copy of data.

use std::fs;

use contract::{
    ClaimSource, Copied, Drained, Pack, Project, Projects, Receipt, ReceiptKey, Source, Stopped,
    VerifiedReceipt, phase_key, receipts_of_cluster,
};
use data_encoding::BASE64;
use documents::{Declared, Diagnostic as _, Reason, Stream};
use ed25519_dalek::{Signer as _, SigningKey};
use secrets::Error;
use serde_json::{Value, json};

type Test<T = ()> = Result<T, Box<dyn std::error::Error>>;

const RECIPIENT: &str = "age1rrphsed8kf5f7amyldf5kg5x04du8znfzrs2pj7h3hu6sr6hmc9q6df5df";
const CLAIM: &str = "default/data";
/// Public key of RFC 8410, section 10.1.
const STRANGER: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
const UID: &str = "8a0c0f0e-0000-4000-8000-000000000001";

/// Creates a Project called `name`, whose root is a file.
fn project_document(folder: &std::path::Path, name: &str) -> Value {
    json!({
        "apiVersion": "holistic/v1alpha1", "kind": "Project", "metadata": {"name": name},
        "spec": {"root": {"file": folder.join("root")}, "recipients": [{"name": "a", "age": RECIPIENT}]},
    })
}

fn receipt() -> Receipt {
    let pack = |object: &str| Pack { object: object.to_owned(), sha256: "00".repeat(32), bytes: 1 };
    Receipt {
        project: "holistic".to_owned(),
        drain: "prod".to_owned(),
        cluster: Drained { name: "prod".to_owned(), uid: "of the cluster".to_owned() },
        run: "11".repeat(32),
        bucket: "drain".to_owned(),
        recipients: vec![RECIPIENT.to_owned()],
        sources: vec![Copied {
            from: Source::Claim(ClaimSource {
                claim: CLAIM.to_owned(),
                uid: UID.to_owned(),
                volume: "pv-data".to_owned(),
                stopped: Some(Stopped {
                    workload: "deployment/data".to_owned(),
                    uid: "of the workload".to_owned(),
                    generation: 3,
                }),
                hold: None,
            }),
            fingerprint: "22".repeat(32),
            bytes: 1,
            entries: 1,
            packs: vec![pack("packs/0")],
            manifest: pack("manifest"),
            not_kept: Vec::new(),
        }],
    }
}

/// Creates a Drain that is Ready, with this envelope.
fn drain(envelope: &Value) -> Value {
    json!({
        "apiVersion": "holistic/v1alpha1", "kind": "Drain", "metadata": {"name": "prod"},
        "spec": {"cluster": "prod", "sources": [{"claim": CLAIM}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "Drained", "message": ""}],
            "evidence": [{"type": "receipt", "envelope": envelope}],
        },
    })
}

/// Folder of a test, with the root of its projects.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Test<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("root"), [7; 32])?;
        Ok(Self { folder })
    }

    fn read(&self, name: &str, documents: &[Value]) -> Test<(Stream, Projects)> {
        let project = project_document(self.folder.path(), name);
        let text: Vec<_> = [project].iter().chain(documents).map(ToString::to_string).collect();
        let file = self.folder.path().join("documents.json");
        fs::write(&file, text.join("\n"))?;
        let mut stream = Stream::read(&[file]);
        let projects = Projects::read(&mut stream);
        stream.accept()?;
        Ok((stream, projects))
    }

    /// Signs `receipt` with the key of data-drain of the project called `name`.
    fn signed(&self, name: &str, receipt: &Receipt) -> Test<Value> {
        let (_, projects) = self.read(name, &[])?;
        let project: &Declared<Project> = projects.get(name)?;
        Ok(serde_json::to_value(receipt.sign(&phase_key(project, "data-drain")?)?)?)
    }

    /// Reads the receipts for the cluster `prod` with a Project that names public keys for receipts.
    fn gate_with(
        &self,
        keys: &[String],
        documents: &[Value],
    ) -> Test<Result<Vec<VerifiedReceipt>, Error>> {
        let mut project = project_document(self.folder.path(), "holistic");
        project["spec"]["verificationKeys"] = json!({"receipts": keys});
        let text: Vec<_> = [project].iter().chain(documents).map(ToString::to_string).collect();
        let file = self.folder.path().join("named.json");
        fs::write(&file, text.join("\n"))?;
        let mut stream = Stream::read(&[file]);
        let projects = Projects::read(&mut stream);
        stream.accept()?;
        Ok(receipts_of_cluster(&stream, projects.get("holistic")?, "prod"))
    }

    /// Reads the receipts for the cluster `prod` from `documents`.
    fn gate(&self, documents: &[Value]) -> Test<Result<Vec<VerifiedReceipt>, Error>> {
        let (stream, projects) = self.read("holistic", documents)?;
        let project = projects.get("holistic")?;
        Ok(receipts_of_cluster(&stream, project, "prod"))
    }
}

#[test]
fn a_receipt_that_data_drain_has_signed_verifies_and_signing_is_deterministic() -> Test {
    let fixture = Fixture::new()?;
    let envelope = fixture.signed("holistic", &receipt())?;
    assert_eq!(fixture.signed("holistic", &receipt())?, envelope);
    let found = fixture.gate(&[drain(&envelope)])??;
    assert_eq!(found.iter().map(|found| (**found).clone()).collect::<Vec<_>>(), [receipt()]);
    Ok(())
}

#[test]
fn no_tampering_opens_the_gate() -> Test {
    let fixture = Fixture::new()?;
    let good = fixture.signed("holistic", &receipt())?;
    let payload = |change: &dyn Fn(&mut Receipt)| -> Test<Value> {
        let mut changed = receipt();
        change(&mut changed);
        let mut envelope = good.clone();
        envelope["payload"] = BASE64.encode(&serde_json::to_vec(&changed)?).into();
        Ok(envelope)
    };
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let mut foreign = good.clone();
    let kind = good["payloadType"].as_str().ok_or("a type")?;
    let text = BASE64.decode(good["payload"].as_str().ok_or("a payload")?.as_bytes())?;
    let message =
        [format!("DSSEv1 {} {kind} {} ", kind.len(), text.len()).as_bytes(), &text].concat();
    let signature = stranger.sign(&message).to_bytes();
    foreign["signatures"][0]["sig"] = BASE64.encode(&signature).into();

    let flipped = |path: &str, at: usize| -> Test<Value> {
        let mut envelope = good.clone();
        let part = envelope.pointer_mut(path).ok_or("a part")?;
        let mut bytes = BASE64.decode(part.as_str().ok_or("text")?.as_bytes())?;
        bytes[at] ^= 1;
        *part = BASE64.encode(&bytes).into();
        Ok(envelope)
    };
    let mut other_kind = good.clone();
    other_kind["payloadType"] = "application/vnd.in-toto+json".into();
    let mut unsigned = good.clone();
    unsigned["signatures"] = json!([]);
    let mut other_drain = receipt();
    "staging".clone_into(&mut other_drain.drain);
    let mut other_cluster = receipt();
    "staging".clone_into(&mut other_cluster.cluster.name);
    let mut other_project = receipt();
    "other".clone_into(&mut other_project.project);
    let mut another_claim = receipt();
    another_claim.sources.clear();

    let manipulations = [
        ("a byte of the payload was flipped", flipped("/payload", 40)?),
        ("a byte of the signature was flipped", flipped("/signatures/0/sig", 10)?),
        (
            "the claim was replaced",
            payload(&|receipt| {
                receipt.sources[0].from = Source::Claim(ClaimSource {
                    claim: "default/other".to_owned(),
                    uid: UID.to_owned(),
                    volume: String::new(),
                    stopped: None,
                    hold: None,
                });
            })?,
        ),
        ("the cluster was replaced", payload(&|receipt| "x".clone_into(&mut receipt.cluster.uid))?),
        (
            "the digest of a pack was replaced",
            payload(&|receipt| {
                receipt.sources[0].packs[0].sha256 = "ff".repeat(32);
            })?,
        ),
        ("it was signed with the key of a stranger", foreign),
        ("it has no signature", unsigned),
        ("its payload type was replaced", other_kind),
        ("it is for another Drain", fixture.signed("holistic", &other_drain)?),
        ("it is for another cluster", fixture.signed("holistic", &other_cluster)?),
        ("it is for another project", fixture.signed("other", &other_project)?),
        ("it lacks a source that the document names", fixture.signed("holistic", &another_claim)?),
        ("it is not an envelope", json!({"payload": 1})),
        ("the status has no envelope", Value::Null),
    ];
    for (manipulation, envelope) in manipulations {
        let error = fixture.gate(&[drain(&envelope)])?.expect_err(manipulation);
        assert_eq!(error.reason(), Reason::ReceiptInvalid, "{manipulation}: {error}");
    }
    Ok(())
}

#[test]
fn a_drain_that_is_not_ready_has_no_receipt() -> Test {
    let fixture = Fixture::new()?;
    let mut refused = drain(&fixture.signed("holistic", &receipt())?);
    refused["status"]["conditions"][0]["status"] = "False".into();
    assert_eq!(fixture.gate(&[refused])??, []);
    let mut others = drain(&fixture.signed("holistic", &receipt())?);
    others["apiVersion"] = "example.org/v1".into();
    assert_eq!(fixture.gate(&[others])??, []);
    Ok(())
}

#[test]
fn a_check_without_the_root_needs_the_public_key_that_the_project_names() -> Test {
    let fixture = Fixture::new()?;
    let envelope = fixture.signed("holistic", &receipt())?;
    let (_, projects) = fixture.read("holistic", &[])?;
    let key = phase_key(projects.get("holistic")?, "data-drain")?;
    let public = ReceiptKey::of(&key, "holistic").pem();
    fs::remove_file(fixture.folder.path().join("root"))?;
    assert!(
        fixture.gate(&[drain(&envelope)])?.is_err(),
        "a job with the key of one phase cannot verify"
    );

    let line = public.lines().filter(|line| !line.starts_with("-----")).collect::<String>();
    assert_eq!(
        fixture.gate_with(&[line], &[drain(&envelope)])??.len(),
        1,
        "the body of the PEM block is enough"
    );
    let named = fixture.gate_with(&[public], &[drain(&envelope)])??;
    assert_eq!(named.len(), 1, "verification needs no secret");
    let stranger = ReceiptKey::parse(STRANGER)?.pem();
    let error =
        fixture.gate_with(&[stranger], &[drain(&envelope)])?.expect_err("another key is named");
    assert_eq!(error.reason(), Reason::ReceiptInvalid, "{error}");
    Ok(())
}
