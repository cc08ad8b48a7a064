//! Secrets that each verb needs.

use std::process::Command;

use serde_json::json;

use crate::Test;
use crate::lab::Lab;

/// A receipt key of another project.
const FOREIGN: &str = "MCowBQYDK2VwAyEAcGpsZi9vYwUCFncSIUGHY9LcMMfLsAu/ZGrNsH3HM2I=";

/// Returns the program with a recipient's identity and the store's reader, but without a secret that can
/// sign or write.
fn checker(lab: &Lab, line: &str) -> Command {
    let mut program = lab.command(line);
    program.env_remove("ROOT").env_remove("S3");
    program.env("S3_READER", r#"{"accessKeyId": "r", "secretAccessKey": "hunter3"}"#);
    program
}

fn drained() -> Test<Lab> {
    let mut lab = Lab::start()?;
    let store = &mut lab.documents[0]["spec"]["endpoints"]["store"]["s3"];
    store["reader"] = json!({"env": "S3_READER"});
    let mut program = lab.command("apply");
    program.env("S3_READER", r#"{"accessKeyId": "r", "secretAccessKey": "hunter3"}"#);
    let ended = lab.ended(program)?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(lab)
}

/// Returns the public key that `derive` writes for `verificationKeys.receipts`.
fn receipt_key(lab: &Lab) -> Test<String> {
    let to = lab.folder.path().join("derived");
    let derived = lab.run(&format!("derive --to {}", to.display()))?;
    assert_eq!(derived.status, Some(0), "{}", derived.said);
    Ok(std::fs::read_to_string(to.join("data-drain/prod/receipt.pub"))?)
}

fn name_keys(lab: &mut Lab, keys: &[&str]) {
    lab.documents[0]["spec"]["verificationKeys"] = json!({"receipts": keys});
}

// hazard: Checking or restoring a drain needs the root secret, which can sign receipts.
// class: Read-only work holds a secret that can write.
// members: `plan`, `verify`, `restore`, the store's writing credential
// now: with `verificationKeys.receipts`, an identity and the store's reader are enough; without a
// named key the error names the secret that is missing
#[test]
fn verify_and_restore_need_the_public_receipt_key_and_no_secret_that_signs_or_writes() -> Test {
    let mut lab = drained()?;
    let key = receipt_key(&lab)?;
    for verb in ["verify", "plan --check"] {
        let refused = lab.ended(checker(&lab, verb))?;
        assert_eq!(refused.status, Some(100), "{verb}: {}", refused.said);
        assert!(refused.message().contains("ROOT"), "{verb}: {}", refused.message());
    }
    name_keys(&mut lab, &[&key]);
    let before = lab.server.world().writes.len();
    let verified = lab.ended(checker(&lab, "verify"))?;
    assert_eq!((verified.status, verified.reason()), (Some(0), "Verified"), "{}", verified.said);
    let planned = lab.ended(checker(&lab, "plan --check"))?;
    assert_eq!(planned.status, Some(0), "{}", planned.said);

    // A pack that is damaged is found, too: the key alone proves nothing of the store.
    let damage = |lab: &Lab| {
        let mut world = lab.server.world();
        let pack = world.store.iter_mut().find(|(key, _)| key.contains("/1/00000-"));
        let (bytes, _) = pack.expect("a pack").1;
        bytes[100] ^= 1;
    };
    damage(&lab);
    let refused = lab.ended(checker(&lab, "verify"))?;
    assert_eq!((refused.status, refused.reason()), (Some(100), "Corrupt"), "{}", refused.said);
    damage(&lab);
    assert_eq!(lab.server.world().writes.len(), before, "nothing was written");

    // The cluster is gone, and so is its kubeconfig.
    lab.server.world().objects.clear();
    lab.documents[1].as_object_mut().ok_or("a Cluster")?.remove("status");
    let to = tempfile::tempdir()?;
    let restore = format!("restore --to {}", to.path().display());
    let restored = lab.ended(checker(&lab, &restore))?;
    assert_eq!(restored.status, Some(0), "{}", restored.said);
    let file = to.path().join("claim/default/b/file");
    assert_eq!(std::fs::read_to_string(file)?, "the data of b");
    Ok(())
}

// hazard: A receipt that anybody else has signed is believed.
// class: Evidence is believed without a check of who gave it.
// members: `verify`, `plan --check`, `restore`, keys from before a rotation
// now: `ReceiptInvalid`, 100; of several named keys any one will do
#[test]
fn a_receipt_is_rejected_when_the_project_does_not_name_its_key() -> Test {
    let mut lab = drained()?;
    let key = receipt_key(&lab)?;
    name_keys(&mut lab, &[FOREIGN]);
    for verb in ["verify", "plan --check"] {
        let refused = lab.ended(checker(&lab, verb))?;
        assert_eq!((refused.status, refused.reason()), (Some(100), "ReceiptInvalid"), "{verb}");
    }
    let to = tempfile::tempdir()?;
    let restore = format!("restore --to {}", to.path().display());
    let refused = lab.ended(checker(&lab, &restore))?;
    assert_eq!(refused.status, Some(100), "{}", refused.said);
    assert_eq!(std::fs::read_dir(to.path())?.count(), 0, "nothing was written");

    name_keys(&mut lab, &[FOREIGN, &key]);
    let verified = lab.ended(checker(&lab, "verify"))?;
    assert_eq!((verified.status, verified.reason()), (Some(0), "Verified"), "{}", verified.said);
    Ok(())
}

#[test]
fn verify_names_the_missing_secret_when_there_is_no_identity() -> Test {
    let mut lab = drained()?;
    let key = receipt_key(&lab)?;
    name_keys(&mut lab, &[&key]);
    let mut program = checker(&lab, "verify");
    program.env_remove("SOPS_AGE_KEY");
    let refused = lab.ended(program)?;
    assert_eq!(refused.status, Some(100), "{}", refused.said);
    assert!(refused.said.contains("SOPS_AGE_KEY"), "{}", refused.said);
    // A restore opens the packs with the same identity.
    let mut program = checker(&lab, "restore --to");
    let to = tempfile::tempdir()?;
    program.arg(to.path()).env_remove("SOPS_AGE_KEY");
    let refused = lab.ended(program)?;
    assert_eq!(refused.status, Some(100), "{}", refused.said);
    assert!(refused.said.contains("SOPS_AGE_KEY"), "{}", refused.said);
    Ok(())
}
