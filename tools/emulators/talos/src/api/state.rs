//! The state API: the machine's status and configuration as resources.

use prost::Message;
use serde_json::json;
use talos_api::cosi::resource::{
    GetRequest, GetResponse, ListRequest, ListResponse, Metadata, Resource, Spec,
};
use talos_api::machine::MachineStatusEvent;
use talos_api::resource::config::MachineConfigSpec;
use talos_api::talos::resource::definitions::runtime::{
    MachineStatusSpec, MachineStatusStatus, UnmetCondition,
};
use talos_api::{ACTIVE_CONFIGURATION, MACHINE_STATUS, PERSISTENT_CONFIGURATION, ResourceName};
use tonic::Status;

use super::Answers;
use super::client::{Client, Role};
use crate::view::stage_name;

pub(super) fn get(client: &Client, request: GetRequest) -> Result<GetResponse, Status> {
    let found = all(client, &request.namespace, &request.r#type)?;
    let found = found
        .into_iter()
        .find(|found| found.metadata.as_ref().is_some_and(|metadata| metadata.id == request.id));
    let GetRequest { namespace, r#type, id } = request;
    let resource = found.ok_or_else(|| {
        Status::not_found(format!("resource {type}({namespace}/{id}) doesn't exist"))
    })?;
    Ok(GetResponse { resource: Some(resource) })
}

pub(super) fn list(
    client: &Client,
    request: &ListRequest,
) -> Result<Answers<ListResponse>, Status> {
    let found = all(client, &request.namespace, &request.r#type)?;
    let listed = found.into_iter().map(|resource| Ok(ListResponse { resource: Some(resource) }));
    Ok(Box::pin(tokio_stream::iter(listed.collect::<Vec<_>>())))
}

/// Types that describe the other types. They are empty.
const META: [&str; 2] = ["Namespaces.meta.cosi.dev", "ResourceDefinitions.meta.cosi.dev"];

/// Returns every resource of one type. Only administrators read configurations, because configurations hold
/// secrets. A type that Talos does not have is denied (`AccessPolicy` in `internal/app/resources/access.go`,
/// v1.13.9).
fn all(client: &Client, namespace: &str, kind: &str) -> Result<Vec<Resource>, Status> {
    let asks = |name: ResourceName| (namespace, kind) == (name.namespace, name.r#type);
    let machine = client.machine(Role::Reader)?;
    if asks(MACHINE_STATUS) {
        let (status, version) = machine.view.status();
        let yaml = yaml_of(&status);
        Ok(vec![resource_of(MACHINE_STATUS, version, &spec_of(status), yaml)])
    } else if asks(ACTIVE_CONFIGURATION) {
        let state = client.machine(Role::Admin)?.run_state();
        let both =
            [(ACTIVE_CONFIGURATION, &state.active), (PERSISTENT_CONFIGURATION, &state.persistent)];
        let there = both.into_iter().filter_map(|(name, config)| Some((name, config.as_ref()?)));
        Ok(there
            .map(|(name, config)| {
                let yaml = json!(String::from_utf8_lossy(&config.bytes)).to_string();
                let spec = MachineConfigSpec { yaml_marshalled: config.bytes.clone() };
                resource_of(name, state.configured, &spec, yaml)
            })
            .collect())
    } else if META.contains(&kind) {
        Ok(Vec::new())
    } else if kind.ends_with(".talos.dev") || kind.ends_with(".cosi.dev") {
        Err(Status::unimplemented(format!("the emulator has no resources {kind}({namespace})")))
    } else {
        Err(Status::permission_denied(format!("resource type \"{kind}\" is not supported")))
    }
}

/// Returns the contents of the resource. Its fields are those of the event, and its stages have the
/// same numbers.
fn spec_of(event: MachineStatusEvent) -> MachineStatusSpec {
    let status = event.status.map(|status| MachineStatusStatus {
        ready: status.ready,
        unmet_conditions: status
            .unmet_conditions
            .into_iter()
            .map(|unmet| UnmetCondition { name: unmet.name, reason: unmet.reason })
            .collect(),
    });
    MachineStatusSpec { stage: event.stage, status }
}

fn yaml_of(event: &MachineStatusEvent) -> String {
    let status = event.status.clone().unwrap_or_default();
    let unmet = status
        .unmet_conditions
        .iter()
        .map(|condition| json!({"name": condition.name, "reason": condition.reason}));
    let stage = stage_name(event.stage());
    // Every JSON text is YAML.
    json!({"stage": stage, "status": {"ready": status.ready, "unmetConditions": unmet.collect::<Vec<_>>()}}).to_string()
}

fn resource_of(name: ResourceName, version: u64, spec: &impl Message, yaml: String) -> Resource {
    let metadata = Metadata {
        namespace: name.namespace.to_owned(),
        r#type: name.r#type.to_owned(),
        id: name.id.to_owned(),
        version: version.max(1).to_string(),
        phase: "running".to_owned(),
    };
    let spec = Spec { proto_spec: spec.encode_to_vec(), yaml_spec: yaml };
    Resource { metadata: Some(metadata), spec: Some(spec) }
}
