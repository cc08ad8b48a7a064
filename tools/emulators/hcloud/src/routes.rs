//! The router: which handler answers which method and path.

use serde_json::json;

use crate::call::{Answer, Call};
use crate::command::Command;
use crate::error::ApiError;
use crate::state::State;
use crate::{
    actions, catalogue, firewalls, images, list, load_balancers, networks, placement_groups,
    primary_ips, server_actions, servers, services, ssh_keys, targets, volumes,
};

/// Answers a `GET`, which changes nothing.
pub(crate) fn read(state: &State, call: &Call) -> Result<Answer, ApiError> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["actions"] => actions::by_ids(state, call),
        ["actions", id] => actions::get(state, number(id)?, None, None),
        ["pricing"] => Ok(Answer::ok(catalogue::pricing())),
        ["locations" | "datacenters" | "server_types" | "load_balancer_types", ..] => {
            catalogue::read(call, &path, &state.sold_out)
        }
        ["floating_ips" | "certificates" | "isos"] => {
            list::page(call, path.first().unwrap_or(&""), vec![], &[], &["id", "name", "created"])
        }
        [family @ ("floating_ips" | "certificates" | "isos"), id] => {
            Err(ApiError::not_found(family.trim_end_matches('s'), id))
        }
        [family, "actions"] => actions::on(state, call, kind(family)?, None),
        [family, "actions", id] => actions::get(state, number(id)?, Some(kind(family)?), None),
        [family, id, "actions"] => {
            let id = exists(state, family, id)?;
            actions::on(state, call, kind(family)?, Some(id))
        }
        [family, id, "actions", action] => {
            let id = exists(state, family, id)?;
            actions::get(state, number(action)?, Some(kind(family)?), Some(id))
        }
        ["servers"] => servers::list(state, call),
        ["servers", id] => {
            Ok(Answer::ok(json!({"server": state.servers.get(number(id)?)?.to_json(state)})))
        }
        ["networks"] => networks::list(state, call),
        ["networks", id] => {
            Ok(Answer::ok(json!({"network": state.networks.get(number(id)?)?.to_json(state)})))
        }
        ["firewalls"] => firewalls::list(state, call),
        ["firewalls", id] => {
            Ok(Answer::ok(json!({"firewall": state.firewalls.get(number(id)?)?.to_json(state)})))
        }
        ["placement_groups"] => placement_groups::list(state, call),
        ["placement_groups", id] => Ok(Answer::ok(
            json!({"placement_group": state.placement_groups.get(number(id)?)?.to_json(state)}),
        )),
        ["volumes"] => volumes::list(state, call),
        ["volumes", id] => {
            Ok(Answer::ok(json!({"volume": state.volumes.get(number(id)?)?.to_json()})))
        }
        ["ssh_keys"] => ssh_keys::list(state, call),
        ["ssh_keys", id] => {
            Ok(Answer::ok(json!({"ssh_key": state.ssh_keys.get(number(id)?)?.to_json()})))
        }
        ["images"] => images::list(state, call),
        ["images", id] => {
            Ok(Answer::ok(json!({"image": state.images.get(number(id)?)?.to_json()})))
        }
        ["load_balancers"] => load_balancers::list(state, call),
        ["load_balancers", id] => Ok(Answer::ok(
            json!({"load_balancer": state.load_balancers.get(number(id)?)?.to_json(state)}),
        )),
        ["primary_ips"] => primary_ips::list(state, call),
        ["primary_ips", id] => {
            Ok(Answer::ok(json!({"primary_ip": state.primary_ips.get(number(id)?)?.to_json()})))
        }
        _ => Err(ApiError::no_such_path(&path)),
    }
}

/// Answers a `POST`, `PUT` or `DELETE`. After an error the caller must discard the state, because the state
/// may be half changed.
pub(crate) fn write(state: &mut State, call: &Call) -> Result<Answer, ApiError> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (call.method.as_str(), path.as_slice()) {
        ("POST", [family, id, "actions", name]) => {
            let (kind, id) = (kind(family)?, exists(state, family, id)?);
            let command = Command { call, kind, id, name };
            match (*family, *name) {
                ("servers", _) => server_actions::act(state, &command),
                ("networks", _) => networks::act(state, &command),
                ("firewalls", _) => firewalls::act(state, &command),
                ("images", _) => images::act(state, &command),
                ("load_balancers", "add_service" | "update_service" | "delete_service") => {
                    services::act(state, &command)
                }
                ("load_balancers", "add_target" | "remove_target") => targets::act(state, &command),
                ("load_balancers", _) => load_balancers::act(state, &command),
                ("primary_ips", _) => primary_ips::act(state, &command),
                ("volumes", _) => volumes::act(state, &command),
                _ => Err(command.unknown()),
            }
        }
        ("POST", ["servers"]) => servers::create(state, call),
        ("PUT", ["servers", id]) => servers::update(state, call, number(id)?),
        ("DELETE", ["servers", id]) => servers::delete(state, number(id)?),
        ("POST", ["networks"]) => networks::create(state, call),
        ("PUT", ["networks", id]) => networks::update(state, call, number(id)?),
        ("DELETE", ["networks", id]) => networks::delete(state, number(id)?),
        ("POST", ["firewalls"]) => firewalls::create(state, call),
        ("PUT", ["firewalls", id]) => firewalls::update(state, call, number(id)?),
        ("DELETE", ["firewalls", id]) => firewalls::delete(state, number(id)?),
        ("POST", ["placement_groups"]) => placement_groups::create(state, call),
        ("PUT", ["placement_groups", id]) => placement_groups::update(state, call, number(id)?),
        ("DELETE", ["placement_groups", id]) => placement_groups::delete(state, number(id)?),
        ("POST", ["volumes"]) => volumes::create(state, call),
        ("DELETE", ["volumes", id]) => volumes::delete(state, number(id)?),
        ("POST", ["ssh_keys"]) => ssh_keys::create(state, call),
        ("PUT", ["ssh_keys", id]) => ssh_keys::update(state, call, number(id)?),
        ("DELETE", ["ssh_keys", id]) => ssh_keys::delete(state, number(id)?),
        ("PUT", ["images", id]) => images::update(state, call, number(id)?),
        ("DELETE", ["images", id]) => images::delete(state, number(id)?),
        ("POST", ["load_balancers"]) => load_balancers::create(state, call),
        ("PUT", ["load_balancers", id]) => load_balancers::update(state, call, number(id)?),
        ("DELETE", ["load_balancers", id]) => load_balancers::delete(state, number(id)?),
        ("POST", ["primary_ips"]) => primary_ips::create(state, call),
        ("PUT", ["primary_ips", id]) => primary_ips::update(state, call, number(id)?),
        ("DELETE", ["primary_ips", id]) => primary_ips::delete(state, number(id)?),
        (method, [family, ..]) if kind(family).is_ok() && path.len() <= 2 => {
            Err(ApiError::new(405, "method_not_allowed", format!("{method} is not allowed here")))
        }
        _ => Err(ApiError::no_such_path(&path)),
    }
}

/// Returns the name of one resource of a family, for example `server` for `servers`.
fn kind(family: &str) -> Result<&'static str, ApiError> {
    match family {
        "servers" => Ok("server"),
        "networks" => Ok("network"),
        "firewalls" => Ok("firewall"),
        "placement_groups" => Ok("placement_group"),
        "ssh_keys" => Ok("ssh_key"),
        "images" => Ok("image"),
        "load_balancers" => Ok("load_balancer"),
        "primary_ips" => Ok("primary_ip"),
        "volumes" => Ok("volume"),
        "floating_ips" => Ok("floating_ip"),
        "certificates" => Ok("certificate"),
        _ => Err(ApiError::no_such_path(&[family])),
    }
}

/// Returns the id if the family has a resource with this id.
fn exists(state: &State, family: &str, id: &str) -> Result<u64, ApiError> {
    let id = number(id)?;
    match family {
        "servers" => state.servers.get(id).map(drop),
        "networks" => state.networks.get(id).map(drop),
        "firewalls" => state.firewalls.get(id).map(drop),
        "placement_groups" => state.placement_groups.get(id).map(drop),
        "ssh_keys" => state.ssh_keys.get(id).map(drop),
        "images" => state.images.get(id).map(drop),
        "load_balancers" => state.load_balancers.get(id).map(drop),
        "primary_ips" => state.primary_ips.get(id).map(drop),
        "volumes" => state.volumes.get(id).map(drop),
        _ => Err(ApiError::not_found(kind(family)?, id)),
    }?;
    Ok(id)
}

fn number(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| ApiError::invalid_fields(&[("id", "must be a number")]))
}
