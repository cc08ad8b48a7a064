//! The state API: the machine's status and configuration as resources.

use prost::Message;
use serde_json::json;
use talos_provision::wire::{
    MachineConfigSpec, MachineStatusEvent, Resource, ResourceMetadata, ResourceSpec, StateGet,
    StateGot, StateList, StateListed, resource,
};
use tonic::Status;

use super::{Answers, Role};
use crate::machine::Machine;
use crate::view::stage_name;

pub(super) fn get(machine: &Machine, role: Role, request: StateGet) -> Result<StateGot, Status> {
    let found = all(machine, role, &request.namespace, &request.r#type)?;
    let found = found
        .into_iter()
        .find(|found| found.metadata.as_ref().is_some_and(|metadata| metadata.id == request.id));
    let StateGet { namespace, r#type, id } = request;
    let resource = found.ok_or_else(|| {
        Status::not_found(format!("resource {type}({namespace}/{id}) doesn't exist"))
    })?;
    Ok(StateGot { resource: Some(resource) })
}

pub(super) fn list(
    machine: &Machine,
    role: Role,
    request: &StateList,
) -> Result<Answers<StateListed>, Status> {
    let found = all(machine, role, &request.namespace, &request.r#type)?;
    let listed = found.into_iter().map(|resource| Ok(StateListed { resource: Some(resource) }));
    Ok(Box::pin(tokio_stream::iter(listed.collect::<Vec<_>>())))
}

/// Returns every resource of one type. Types that the emulator does not have are empty.
fn all(
    machine: &Machine,
    role: Role,
    namespace: &str,
    kind: &str,
) -> Result<Vec<Resource>, Status> {
    match (namespace, kind) {
        (resource::STATUS_NAMESPACE, resource::STATUS_TYPE) => {
            let (status, version) = machine.view.status();
            let yaml = yaml_of(&status);
            Ok(vec![resource_of(namespace, kind, resource::STATUS_ID, version, &status, yaml)])
        }
        (resource::CONFIG_NAMESPACE, resource::CONFIG_TYPE) if role < Role::Admin => {
            Err(Status::permission_denied("not authorized"))
        }
        (resource::CONFIG_NAMESPACE, resource::CONFIG_TYPE) => {
            let state = machine.run_state();
            let both = [
                (resource::CONFIG_ACTIVE, &state.active),
                (resource::CONFIG_PERSISTENT, &state.persistent),
            ];
            let there = both.into_iter().filter_map(|(id, config)| Some((id, config.as_ref()?)));
            Ok(there
                .map(|(id, config)| {
                    let yaml = json!(String::from_utf8_lossy(&config.bytes)).to_string();
                    let spec = MachineConfigSpec { yaml_marshalled: config.bytes.clone() };
                    resource_of(namespace, kind, id, state.configured, &spec, yaml)
                })
                .collect())
        }
        _ => Ok(Vec::new()),
    }
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

fn resource_of(
    namespace: &str,
    kind: &str,
    id: &str,
    version: u64,
    spec: &impl Message,
    yaml: String,
) -> Resource {
    let metadata = ResourceMetadata {
        namespace: namespace.to_owned(),
        r#type: kind.to_owned(),
        id: id.to_owned(),
        version: version.max(1).to_string(),
        phase: "running".to_owned(),
        ..ResourceMetadata::default()
    };
    let spec = ResourceSpec { proto_spec: spec.encode_to_vec(), yaml_spec: yaml };
    Resource { metadata: Some(metadata), spec: Some(spec) }
}
