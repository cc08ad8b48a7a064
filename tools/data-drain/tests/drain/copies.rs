//! Copies to a store that truncates its responses, loses them, or locks its objects.

use std::collections::BTreeMap;

use crate::Test;
use crate::lab::Lab;

// hazard: A download that is cut in the middle fails a restore, or gives other bytes.
// class: A truncated stream is taken for whole.
// members: `verify`, receipts, packs, a store that cuts every answer before its first byte
// now: it goes on with a `Range` request; without any progress it ends: `Unreachable`, 111
#[test]
fn verify_and_restore_continue_a_truncated_download() -> Test {
    let lab = Lab::start()?;
    assert_eq!(lab.run("apply")?.status, Some(0));
    lab.server.world().faults.store.cut_after = Some(100);
    let verified = lab.run("verify")?;
    assert_eq!((verified.status, verified.reason()), (Some(0), "Verified"), "{}", verified.said);
    for name in ["a", "b"] {
        assert_eq!(lab.restored(&format!("default/{name}"))?, format!("the data of {name}"));
    }
    let ranges = |lab: &Lab, part: &str| {
        let world = lab.server.world();
        world.writes.iter().filter(|line| line.starts_with("RANGE ") && line.contains(part)).count()
    };
    assert!(ranges(&lab, "/00000-") > 0 && ranges(&lab, "/receipt-") > 0, "packs and receipts");

    lab.server.world().faults.store.cut_after = Some(0);
    let verified = lab.run("verify")?;
    assert_eq!((verified.status, verified.reason()), (Some(111), "Unreachable"));
    let to = tempfile::tempdir()?;
    let restored = lab.run(&format!("restore --to {}", to.path().display()))?;
    assert_eq!(restored.status, Some(111), "{}", restored.said);
    assert!(!to.path().join("claim/default/a/file").exists());
    Ok(())
}

// hazard: Objects that are locked make a second drain fail, after everything was stopped.
// class: A failure makes things worse.
// members: a drain that was interrupted, an answer that got lost, a drain after a thaw
// now: every object is written once, with its MD5, and never over or deleted
#[test]
fn a_drain_succeeds_repeatedly_when_the_store_locks_its_objects() -> Test {
    let lab = Lab::start()?;
    lab.server.world().faults.store.locked = true;
    // The first claim's pack and manifest arrive, and one of the two responses is lost.
    lab.server.world().faults.store.puts = Some(2);
    lab.server.world().faults.store.lost = 1;
    let failed = lab.run("apply")?;
    assert_eq!((failed.status, failed.reason()), (Some(100), "Forbidden"), "{}", failed.said);
    assert_eq!(lab.server.world().store.len(), 2);
    lab.server.world().faults.store.puts = None;
    lab.server.world().writes.clear();
    for verb in ["apply", "apply", "verify", "destroy", "apply", "verify"] {
        let ended = lab.run(verb)?;
        assert_eq!(ended.status, Some(0), "{verb}: {}", ended.said);
    }
    let mut puts = BTreeMap::new();
    let world = lab.server.world();
    for line in world.writes.iter().filter(|line| line.contains(" holistic/")) {
        *puts.entry(line.clone()).or_insert(0) += 1;
    }
    assert!(puts.values().all(|count| *count == 1), "{puts:?}");
    assert!(puts.keys().all(|line| line.starts_with("PUT ")), "{puts:?}");
    assert_eq!(puts.len(), 4, "the second claim's pack and manifest, and two receipts: {puts:?}");
    Ok(())
}
