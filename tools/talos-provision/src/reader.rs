//! The plan of a caller that only reads, for example a workflow of pull requests.
//!
//! Configurations of machines hold keys, and only the key of `talos-provision` derives them. A caller
//! without that key compares what the cloud shows, and reports the rest as `Unknown`.

use std::collections::BTreeMap;

use documents::{Condition, Context};
use keyring::{Access, Projects};

use crate::observe::{Kubernetes, Observation, Status};
use crate::plan;
use crate::session::{self, Ground};
use crate::spec::Cluster;
use crate::{Error, absence, apply};

/// Conditions that need an answer of a machine or of Kubernetes.
const NOT_ASKED: [&str; 4] = ["Configured", "Etcd", "Api", "Nodes"];

/// The reason of a condition that a reader cannot determine.
const READER: &str = "ReaderAccess";

/// Plans the changes in the cloud.
pub(crate) fn plan(context: &Context<'_, Cluster>, projects: &Projects) -> Result<Status, Error> {
    let ground = Ground::open(context.document, projects, Access::Reader)?;
    let view = absence::see(context, &ground)?;
    let kubernetes = Kubernetes { ready: Err("not asked".to_owned()), nodes: Vec::new() };
    let mut now = Observation {
        endpoint: session::endpoint(&context.document.spec, &view),
        wanted: session::wanted(context.document),
        world: apply::world(&view),
        node_states: BTreeMap::new(),
        kubernetes,
    };
    apply::unobstructed(&now)?;
    let steps = plan::plan_cloud(&now.wanted, &now.world);
    apply::stocked(&ground.cloud, &mut now, &steps)?;
    let steps = plan::plan_cloud(&now.wanted, &now.world);
    let mut observed = now.observed();
    for node in &mut observed.nodes {
        "not asked: this needs the key of talos-provision".clone_into(&mut node.talos);
    }
    let mut status = if steps.is_empty() {
        let message = "the cloud is as declared; machines and Kubernetes were not asked, because only \
                       READER_KEY is set and the key of talos-provision is not";
        // The plan is absent, because machines may need steps that the cloud does not show.
        let ready = Condition::unknown("Ready", READER, message);
        Status { observed: Some(observed), ..Status::new(ready) }
    } else {
        Status::planned(Some(observed), steps)
    };
    let unknown = |about| {
        Condition::unknown(about, READER, "not asked: this needs the key of talos-provision")
    };
    status.conditions.extend(NOT_ASKED.map(unknown));
    Ok(status)
}
