//! Waits for pods that still use what is copied.

use crate::Test;
use crate::lab::Lab;

const SLOW: &str = "/api/v1/namespaces/default/pods/a-7";

// hazard: A pod that takes long to end writes while its claim is copied.
// class: The wrong bytes are copied.
// members: a second run while the pod still runs
// now: `NotConverged`, 111, with the pod's name; the workloads stay stopped and held, nothing is copied
#[test]
fn apply_copies_nothing_while_a_pod_still_uses_a_claim_and_names_the_pod() -> Test {
    let lab = Lab::start()?;
    let pod = lab.server.world().objects["/api/v1/namespaces/default/pods/a-0"].clone();
    lab.server.world().put(SLOW, pod);
    for run in ["first", "second"] {
        let ended = lab.run("apply")?;
        let told = (ended.status, ended.reason());
        assert_eq!(told, (Some(111), "NotConverged"), "{run}: {}", ended.said);
        let message = ended.message();
        assert!(message.contains("these still use what is copied: default/a-7"), "{message}");
        assert!(lab.is_frozen(), "{run}");
        assert!(lab.server.world().store.is_empty(), "{run}");
    }
    lab.server.world().objects.remove(SLOW);
    let ended = lab.run("apply")?;
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    Ok(())
}
