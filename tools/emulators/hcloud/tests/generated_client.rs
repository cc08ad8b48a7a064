//! A client that was generated from a description of the API reads every answer.
//!
//! Its required fields and closed enums fail on every answer that differs from the description. The client is of
//! an older description than the emulator: it cannot read a Primary IP whose assignee type is `unassigned`, as the
//! API answers since 2026-08-01, so `tests/cloud.rs` and Hetzner's Python client test these.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod emulator;

use std::collections::HashMap;
use std::fmt::Debug;

use emulator::Emulator;
use hcloud::apis::configuration::Configuration;
use hcloud::apis::{
    Error, actions_api as actions, datacenters_api as datacenters, firewalls_api as firewalls,
    images_api as images, load_balancer_types_api as balancer_types,
    load_balancers_api as balancers, locations_api as locations, networks_api as networks,
    placement_groups_api as groups, pricing_api as pricing, primary_ips_api as ips,
    server_types_api as server_types, servers_api as servers, ssh_keys_api as keys,
    volumes_api as volumes,
};
use hcloud::models;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f one";

/// Returns the answer, or panics with the answer that the client could not read.
fn read<T, E: Debug>(what: &str, answer: Result<T, Error<E>>) -> T {
    answer.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// Returns the code of an error answer; panics if the client could not read the error.
fn code<T: Debug, E: Debug>(answer: Result<T, Error<E>>) -> String {
    match answer {
        Err(Error::ResponseError(content)) => {
            let error: models::ErrorResponse = serde_json::from_str(&content.content).unwrap();
            error.error.code
        }
        other => panic!("not refused: {other:?}"),
    }
}

async fn done(cloud: &Configuration, ids: Vec<i64>) {
    for _ in 0..500 {
        let answer = read(
            "actions",
            actions::get_multiple_actions(
                cloud,
                actions::GetMultipleActionsParams { id: ids.clone() },
            )
            .await,
        );
        assert_eq!(answer.actions.len(), ids.len());
        if answer.actions.iter().all(|action| action.status == models::action::Status::Success) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("actions {ids:?} did not succeed");
}

fn labels(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), value.to_owned())])
}

#[test]
fn a_generated_rust_client_reads_every_answer_of_a_cluster_life_cycle() {
    let emulator = Emulator::start("rust");
    let mut cloud = Configuration::new();
    cloud.base_path_mapping.insert("https://api.hetzner.cloud/v1".to_owned(), emulator.endpoint());
    cloud.bearer_access_token = Some(emulator::TOKEN.to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        catalogue(&cloud).await;
        life(&cloud).await;
    });
}

async fn catalogue(cloud: &Configuration) {
    let all = read(
        "locations",
        locations::list_locations(cloud, locations::ListLocationsParams::default()).await,
    );
    assert!(all.locations.iter().any(|location| location.name == "fsn1"));
    let all = read(
        "server types",
        server_types::list_server_types(
            cloud,
            server_types::ListServerTypesParams { per_page: Some(50), ..Default::default() },
        )
        .await,
    );
    assert!(
        all.server_types
            .iter()
            .any(|offer| offer.name == "cax11" && offer.architecture == models::Architecture::Arm)
    );
    read(
        "server type",
        server_types::get_server_type(cloud, server_types::GetServerTypeParams { id: 45 }).await,
    );
    let all = read(
        "balancer types",
        balancer_types::list_load_balancer_types(
            cloud,
            balancer_types::ListLoadBalancerTypesParams::default(),
        )
        .await,
    );
    assert_eq!(all.load_balancer_types.len(), 3);
    read(
        "data centers",
        datacenters::list_data_centers(cloud, datacenters::ListDataCentersParams::default()).await,
    );
    let prices = read("prices", pricing::list_prices(cloud).await);
    assert_eq!(prices.pricing.currency, "EUR");
    assert!(
        read("volumes", volumes::list_volumes(cloud, volumes::ListVolumesParams::default()).await)
            .volumes
            .is_empty()
    );
    let all = read(
        "images",
        images::list_images(
            cloud,
            images::ListImagesParams {
                label_selector: Some("os=talos".to_owned()),
                ..Default::default()
            },
        )
        .await,
    );
    assert_eq!(all.images.len(), 2);
}

#[allow(clippy::too_many_lines, reason = "one life cycle, in order")]
async fn life(cloud: &Configuration) {
    let key = read(
        "ssh key",
        keys::create_ssh_key(
            cloud,
            keys::CreateSshKeyParams {
                create_ssh_key_request: models::CreateSshKeyRequest {
                    labels: Some(labels("a", "b")),
                    ..models::CreateSshKeyRequest::new("rust".to_owned(), KEY.to_owned())
                },
            },
        )
        .await,
    )
    .ssh_key;
    let group = models::CreatePlacementgroupRequest::new(
        "rust".to_owned(),
        models::create_placementgroup_request::Type::Spread,
    );
    let group = read(
        "group",
        groups::create_placementgroup(
            cloud,
            groups::CreatePlacementgroupParams { create_placementgroup_request: group },
        )
        .await,
    )
    .placement_group;
    let subnet = models::Subnet {
        ip_range: Some("10.0.1.0/24".to_owned()),
        ..models::Subnet::new("eu-central".to_owned(), models::subnet::Type::Cloud)
    };
    let network = models::CreateNetworkRequest {
        subnets: Some(vec![subnet]),
        ..models::CreateNetworkRequest::new("10.0.0.0/16".to_owned(), "rust".to_owned())
    };
    let network = read(
        "network",
        networks::create_network(
            cloud,
            networks::CreateNetworkParams { create_network_request: network },
        )
        .await,
    )
    .network
    .unwrap();
    let rule = models::Rule {
        source_ips: Some(vec!["0.0.0.0/0".to_owned()]),
        port: Some(Some("50000".to_owned())),
        ..models::Rule::new(models::rule::Direction::In, models::rule::Protocol::Tcp)
    };
    let wall = models::CreateFirewallRequest {
        rules: Some(vec![rule]),
        ..models::CreateFirewallRequest::new("rust".to_owned())
    };
    let wall = read(
        "firewall",
        firewalls::create_firewall(
            cloud,
            firewalls::CreateFirewallParams { create_firewall_request: wall },
        )
        .await,
    )
    .firewall
    .unwrap();

    let server = models::CreateServerRequest {
        labels: Some(labels("role", "control-plane")),
        location: Some("fsn1".to_owned()),
        networks: Some(vec![network.id]),
        placement_group: Some(group.id),
        ssh_keys: Some(vec![key.name.clone()]),
        user_data: Some("x".to_owned()),
        firewalls: Some(vec![models::CreateServerRequestFirewalls { firewall: wall.id }]),
        ..models::CreateServerRequest::new(
            "102".to_owned(),
            "rust-1".to_owned(),
            "cax11".to_owned(),
        )
    };
    let params = servers::CreateServerParams { create_server_request: server };
    let made = read("server", servers::create_server(cloud, params.clone()).await);
    assert_eq!(code(servers::create_server(cloud, params).await), "uniqueness_error");
    let mut ids: Vec<_> = made.next_actions.iter().map(|action| action.id).collect();
    ids.push(made.action.id);
    done(cloud, ids).await;
    let id = made.server.id;

    let check = models::LoadBalancerServiceHealthCheck::new(
        15,
        6443,
        models::load_balancer_service_health_check::Protocol::Tcp,
        3,
        10,
    );
    let service = models::LoadBalancerService::new(
        6443,
        check,
        6443,
        models::load_balancer_service::Protocol::Tcp,
        false,
    );
    let target = models::LoadBalancerAddTarget {
        label_selector: Some(Box::new(models::LabelSelector::new("role=control-plane".to_owned()))),
        use_private_ip: Some(false),
        ..models::LoadBalancerAddTarget::new(models::load_balancer_add_target::Type::LabelSelector)
    };
    let balancer = models::CreateLoadBalancerRequest {
        location: Some("fsn1".to_owned()),
        services: Some(vec![service]),
        targets: Some(vec![target]),
        ..models::CreateLoadBalancerRequest::new("lb11".to_owned(), "rust".to_owned())
    };
    let made = read(
        "balancer",
        balancers::create_load_balancer(
            cloud,
            balancers::CreateLoadBalancerParams { create_load_balancer_request: balancer },
        )
        .await,
    );
    done(cloud, vec![made.action.id]).await;
    let balancer = made.load_balancer.id;
    everything(cloud).await;
    server_actions(cloud, id, network.id).await;
    everything(cloud).await;

    let protect = |delete| models::ChangeLoadBalancerProtectionRequest { delete: Some(delete) };
    for delete in [true, false] {
        let params = balancers::ChangeLoadBalancerProtectionParams {
            id: balancer,
            change_load_balancer_protection_request: protect(delete),
        };
        done(
            cloud,
            vec![
                read("protection", balancers::change_load_balancer_protection(cloud, params).await)
                    .action
                    .id,
            ],
        )
        .await;
    }
    read(
        "balancer",
        balancers::delete_load_balancer(
            cloud,
            balancers::DeleteLoadBalancerParams { id: balancer },
        )
        .await,
    );
    let deleted =
        read("server", servers::delete_server(cloud, servers::DeleteServerParams { id }).await);
    done(cloud, vec![deleted.action.unwrap().id]).await;
    assert_eq!(
        code(servers::get_server(cloud, servers::GetServerParams { id }).await),
        "not_found"
    );
    read(
        "firewall",
        firewalls::delete_firewall(cloud, firewalls::DeleteFirewallParams { id: wall.id }).await,
    );
    read(
        "network",
        networks::delete_network(cloud, networks::DeleteNetworkParams { id: network.id }).await,
    );
    read(
        "group",
        groups::delete_placementgroup(cloud, groups::DeletePlacementgroupParams { id: group.id })
            .await,
    );
    read("ssh key", keys::delete_ssh_key(cloud, keys::DeleteSshKeyParams { id: key.id }).await);
}

/// Reads every list, and every resource of the list by itself.
async fn everything(cloud: &Configuration) {
    for server in
        read("servers", servers::list_servers(cloud, servers::ListServersParams::default()).await)
            .servers
    {
        read(
            "server",
            servers::get_server(cloud, servers::GetServerParams { id: server.id }).await,
        );
        read(
            "its actions",
            servers::list_actions_for_server(
                cloud,
                servers::ListActionsForServerParams { id: server.id, ..Default::default() },
            )
            .await,
        );
    }
    for balancer in read(
        "balancers",
        balancers::list_load_balancers(cloud, balancers::ListLoadBalancersParams::default()).await,
    )
    .load_balancers
    {
        assert_eq!(
            balancer.targets.first().and_then(|target| target.targets.as_ref()).map(Vec::len),
            Some(1)
        );
        read(
            "balancer",
            balancers::get_load_balancer(
                cloud,
                balancers::GetLoadBalancerParams { id: balancer.id },
            )
            .await,
        );
    }
    for network in read(
        "networks",
        networks::list_networks(cloud, networks::ListNetworksParams::default()).await,
    )
    .networks
    {
        read(
            "network",
            networks::get_network(cloud, networks::GetNetworkParams { id: network.id }).await,
        );
    }
    for firewall in read(
        "firewalls",
        firewalls::list_firewalls(cloud, firewalls::ListFirewallsParams::default()).await,
    )
    .firewalls
    {
        read(
            "firewall",
            firewalls::get_firewall(cloud, firewalls::GetFirewallParams { id: firewall.id }).await,
        );
    }
    for ip in read(
        "primary ips",
        ips::list_primary_ips(cloud, ips::ListPrimaryIpsParams::default()).await,
    )
    .primary_ips
    {
        read("primary ip", ips::get_primary_ip(cloud, ips::GetPrimaryIpParams { id: ip.id }).await);
    }
    read(
        "groups",
        groups::list_placement_groups(cloud, groups::ListPlacementGroupsParams::default()).await,
    );
    read("keys", keys::list_ssh_keys(cloud, keys::ListSshKeysParams::default()).await);
    read("images", images::list_images(cloud, images::ListImagesParams::default()).await);
}

async fn server_actions(cloud: &Configuration, id: i64, network: i64) {
    let off = read(
        "poweroff",
        servers::power_off_server(cloud, servers::PowerOffServerParams { id }).await,
    );
    done(cloud, vec![off.action.id]).await;
    done(
        cloud,
        vec![
            read(
                "poweron",
                servers::power_on_server(cloud, servers::PowerOnServerParams { id }).await,
            )
            .action
            .id,
        ],
    )
    .await;
    done(
        cloud,
        vec![
            read("reset", servers::reset_server(cloud, servers::ResetServerParams { id }).await)
                .action
                .id,
        ],
    )
    .await;
    let rescue = servers::EnableRescueModeForServerParams {
        id,
        enable_rescue_mode_for_server_request: models::EnableRescueModeForServerRequest::default(),
    };
    done(
        cloud,
        vec![
            read("rescue", servers::enable_rescue_mode_for_server(cloud, rescue).await)
                .action
                .unwrap()
                .id,
        ],
    )
    .await;
    let image = servers::CreateImageFromServerParams {
        id,
        create_image_from_server_request: models::CreateImageFromServerRequest {
            labels: Some(labels("os", "talos")),
            ..Default::default()
        },
    };
    let image = read("image", servers::create_image_from_server(cloud, image).await);
    read("images", images::list_images(cloud, images::ListImagesParams::default()).await);
    done(cloud, vec![image.action.unwrap().id]).await;
    let leave = servers::DetachServerFromNetworkParams {
        id,
        detach_server_from_network_request: models::DetachServerFromNetworkRequest::new(network),
    };
    done(
        cloud,
        vec![read("detach", servers::detach_server_from_network(cloud, leave).await).action.id],
    )
    .await;
    let join = servers::AttachServerToNetworkParams {
        id,
        attach_server_to_network_request: models::AttachServerToNetworkRequest::new(network),
    };
    done(
        cloud,
        vec![read("attach", servers::attach_server_to_network(cloud, join).await).action.id],
    )
    .await;
}
