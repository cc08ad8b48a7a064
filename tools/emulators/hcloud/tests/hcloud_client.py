"""Drives the emulator with the vendor's own client (PyPI `hcloud`).

usage: hcloud_client.py ENDPOINT TOKEN

Covers every family, every action, pages, filters, and errors. The last line of the output is
`N passed, 0 failed`; the first failed assertion raises.
"""

import time
import warnings

import requests
from hcloud import Client
from hcloud.actions.domain import ActionFailedException
from hcloud.firewalls.domain import FirewallResource, FirewallResourceLabelSelector, FirewallRule
from hcloud.images.domain import Image
from hcloud.locations.domain import Location
from hcloud.networks.domain import NetworkRoute, NetworkSubnet
from hcloud.server_types.domain import ServerType
from hcloud.servers.domain import ServerCreatePublicNetwork
from hcloud_kit import CAX11, CAX21, DEBIAN, ENDPOINT, FSN1, KEYS, LAB, TOKEN, client, delete, done, fault, passed, refused, scene, server, until


@scene
def the_catalogue_lists_locations_types_and_prices():
    assert {location.name for location in client.locations.get_all()} >= {"fsn1", "nbg1", "hel1"}
    assert client.locations.get_by_name("fsn1").network_zone == "eu-central"
    assert client.locations.get_by_id(1).name == "fsn1"
    types = {offer.name: offer for offer in client.server_types.get_all()}
    assert types["cax11"].architecture == "arm" and types["cax21"].cores == 4 and types["cx23"].architecture == "x86"
    assert types["cax11"].prices[0]["price_monthly"]["net"] == "3.2900000000"
    assert types["cax11"].prices[0]["price_monthly"]["gross"].startswith("3.9151")
    assert types["cax11"].locations[0].location.name == "fsn1"
    assert client.server_types.get_by_name("cax11").id == 45 and client.server_types.get_by_id(45).disk == 40
    assert [offer.name for offer in client.load_balancer_types.get_all()] == ["lb11", "lb21", "lb31"]
    assert client.load_balancer_types.get_by_name("lb11").max_targets == 25
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert client.datacenters.get_all()[0].location.name == "fsn1"
        assert client.datacenters.get_by_id(1).server_types.available
    assert client.volumes.get_all() == [] and client.floating_ips.get_all() == []
    assert client.certificates.get_all() == [] and client.isos.get_all() == []
    pricing = client.request("GET", "/pricing")["pricing"]
    assert pricing["currency"] == "EUR" and pricing["server_types"] and pricing["load_balancer_types"]


@scene
def images_are_found_by_labels_or_by_name():
    found = client.images.get_all(label_selector="os=talos,version=v1.13.9", type="snapshot")
    assert sorted(image.architecture for image in found) == ["arm", "x86"] and all(image.name is None for image in found)
    assert len(client.images.get_all(label_selector="os=talos", architecture="arm")) == 1
    assert client.images.get_by_name_and_architecture("debian-13", "arm").type == "system"
    image = found[0].update(description="mine", labels={**found[0].labels, "x": "y"})
    assert client.images.get_by_id(image.id).description == "mine"
    done(found[0].change_protection(delete=True))
    refused("protected", found[0].delete)
    done(found[0].change_protection(delete=False))
    found[0].update(labels={"os": "talos", "version": "v1.13.9"})


@scene
def ssh_keys_are_unique_by_name_and_by_fingerprint():
    key = client.ssh_keys.create(name="one", public_key=KEYS[0], labels={"a": "b"})
    assert key.fingerprint.count(":") == 15
    assert client.ssh_keys.get_by_name("one").id == key.id
    assert client.ssh_keys.get_by_fingerprint(key.fingerprint).id == key.id
    assert client.ssh_keys.get_all(label_selector="a=b")[0].id == key.id
    refused("uniqueness_error", client.ssh_keys.create, name="one", public_key=KEYS[1])
    refused("uniqueness_error", client.ssh_keys.create, name="two", public_key=KEYS[0])
    refused("invalid_input", client.ssh_keys.create, name="three", public_key="nonsense")
    assert key.update(name="uno", labels={}).name == "uno"
    assert key.delete()
    refused("not_found", client.ssh_keys.get_by_id, key.id)


@scene
def a_server_accepts_every_command_of_its_life_cycle():
    key = client.ssh_keys.create(name="key", public_key=KEYS[0])
    group = client.placement_groups.create(name="group", type="spread").placement_group
    network = client.networks.create(
        name="net",
        ip_range="10.0.0.0/16",
        subnets=[NetworkSubnet(type="cloud", ip_range="10.0.1.0/24", network_zone="eu-central")],
    )
    firewall = client.firewalls.create(name="wall").firewall
    made = client.servers.create(
        name="alpha",
        server_type=CAX11,
        image=DEBIAN,
        location=FSN1,
        ssh_keys=[key],
        networks=[network],
        firewalls=[firewall],
        placement_group=group,
        user_data="#cloud-config",
        labels={"role": "test", "holistic/x": ""},
    )
    assert made.server.status == "initializing" and made.root_password is None
    assert [action.command for action in made.next_actions] == ["attach_to_network", "start_server"]
    assert made.server.private_net == [], "a network is attached by an action"
    done(made.action, *made.next_actions)
    alpha = client.servers.get_by_name("alpha")
    assert alpha.status == "running" and not alpha.locked and alpha.id == made.server.id
    assert alpha.private_net[0].ip == "10.0.1.1" and alpha.private_net[0].network.id == network.id
    assert alpha.placement_group.id == group.id and alpha.public_net.firewalls[0].status == "applied"
    assert alpha.public_net.ipv4.ip.startswith("127.") and alpha.public_net.ipv6.ip.endswith("/64")
    assert alpha.image.name == "debian-13" and alpha.image.architecture == "arm" and alpha.location.name == "fsn1"
    assert alpha.server_type.name == "cax11" and alpha.primary_disk_size == 40
    primary = alpha.public_net.primary_ipv4
    assert primary.ip == alpha.public_net.ipv4.ip and primary.auto_delete and primary.assignee_id == alpha.id
    assert client.networks.get_by_id(network.id).servers[0].id == alpha.id
    assert client.placement_groups.get_by_id(group.id).servers == [alpha.id]
    refused("resource_in_use", client.firewalls.get_by_id(firewall.id).delete)

    assert alpha.update(name="beta", labels={"role": "other"}).name == "beta"
    assert client.servers.get_all(label_selector="role=other")[0].id == alpha.id
    assert client.servers.get_all(status=["running"])[0].id == alpha.id
    assert client.servers.get_all(status=["off"]) == []
    refused("uniqueness_error", client.servers.create, name="beta", server_type=CAX11, image=DEBIAN)

    done(alpha.power_off())
    assert client.servers.get_by_id(alpha.id).status == "off"
    refused("server_error", alpha.reboot)
    done(alpha.power_on())
    done(alpha.reboot())
    done(alpha.reset())
    done(alpha.shutdown())
    done(alpha.power_on())
    refused("server_not_stopped", alpha.change_type, CAX21, upgrade_disk=False)
    done(alpha.power_off())
    done(alpha.change_type(CAX21, upgrade_disk=True))
    refused("invalid_server_type", alpha.change_type, ServerType(name="cx23"), upgrade_disk=False)
    assert client.servers.get_by_id(alpha.id).server_type.name == "cax21"
    done(alpha.remove_from_placement_group())
    done(alpha.add_to_placement_group(group))

    rescue = alpha.enable_rescue(type="linux64", ssh_keys=[key.id])
    assert rescue.root_password
    done(rescue.action)
    assert client.servers.get_by_id(alpha.id).rescue_enabled
    done(alpha.disable_rescue())
    done(alpha.enable_rescue(type="linux64").action)
    done(alpha.power_on())
    assert not client.servers.get_by_id(alpha.id).rescue_enabled, "rescue is for one boot"
    done(alpha.rebuild(DEBIAN).action)
    snapshot = alpha.create_image(description="a copy", type="snapshot", labels={"made": "here"})
    assert snapshot.image.status == "creating"
    done(snapshot.action)
    copy = client.images.get_all(label_selector="made=here")[0]
    assert copy.status == "available" and copy.created_from.id == alpha.id
    refused("invalid_input", alpha.create_image, type="backup")
    done(alpha.enable_backup())
    done(alpha.create_image(type="backup").action)
    done(alpha.disable_backup())
    assert copy.delete()
    done(alpha.change_dns_ptr(ip=alpha.public_net.ipv4.ip, dns_ptr="a.example"))
    assert client.servers.get_by_id(alpha.id).public_net.ipv4.dns_ptr == "a.example"
    done(alpha.reset_password().action)
    done(alpha.request_console().action)

    done(alpha.change_protection(delete=True, rebuild=True))
    refused("protected", alpha.delete)
    refused("protected", alpha.rebuild, DEBIAN)
    refused("invalid_input", alpha.change_protection, delete=False)
    done(alpha.change_protection(delete=False, rebuild=False))

    done(alpha.detach_from_network(network))
    done(alpha.attach_to_network(network, ip="10.0.1.77", alias_ips=["10.0.1.78"]))
    net = client.servers.get_by_id(alpha.id).private_net[0]
    assert (net.ip, net.alias_ips) == ("10.0.1.77", ["10.0.1.78"])
    refused("server_already_attached", alpha.attach_to_network, network)
    done(alpha.change_alias_ips(network, ["10.0.1.79"]))
    assert client.servers.get_by_id(alpha.id).private_net[0].alias_ips == ["10.0.1.79"]

    commands = [action.command for action in client.servers.get_actions(alpha)]
    assert commands[:3] == ["create_server", "attach_to_network", "start_server"]
    assert alpha.get_actions_list(status=["success"], sort=["id:desc"]).actions[0].command == "change_alias_ips"
    one = alpha.get_actions()[0]
    assert client.servers.actions.get_by_id(one.id).command == "create_server"
    assert client.servers.actions.get_all() and client.actions.get_by_id(one.id).status == "success"
    both = client.request("GET", "/actions", params={"id": [made.action.id, made.next_actions[0].id]})["actions"]
    assert [action["id"] for action in both] == [made.action.id, made.next_actions[0].id]

    refused("resource_in_use", group.delete)
    delete(alpha)
    refused("not_found", client.servers.get_by_id, alpha.id)
    refused("not_found", client.primary_ips.get_by_id, primary.id)
    assert client.firewalls.get_by_id(firewall.id).applied_to == []
    assert firewall.delete() and network.delete() and group.delete() and key.delete()


@scene
def an_invalid_server_is_refused_with_the_names_of_the_fields():
    def create(**kwargs):
        return refused("invalid_input", client.servers.create, **{"name": "x", "server_type": CAX11, "image": DEBIAN, **kwargs})

    error = create(name="no_host_name", user_data="x" * 32769)
    assert [field["name"] for field in error.details["fields"]] == ["name", "user_data"]
    assert "Length must be between 0 and 32768" in error.details["fields"][1]["messages"]
    assert "unsupported location" in create(location=Location(name="ash")).message
    assert "not found" in create(location=Location(name="moon")).message
    assert "not found" in create(server_type=ServerType(name="cx999")).message
    x86 = client.images.get_by_name_and_architecture("debian-13", "x86")
    assert "architecture" in create(image=x86).message
    refused("not_found", client.servers.create, name="x", server_type=CAX11, image=Image(name="beos"))
    create(labels={"-": "x"})
    create(labels={"x": "y" * 64})
    create(public_net=ServerCreatePublicNetwork(enable_ipv4=False, enable_ipv6=False))
    assert client.servers.get_all() == [] and client.primary_ips.get_all() == [], "a refused call leaves nothing"
    made = server("largest", user_data="x" * 32768, start_after_create=False)
    assert made.status == "off"
    delete(made)


@scene
def a_spread_placement_group_takes_ten_servers():
    group = client.placement_groups.create(name="ten", type="spread", labels={"a": "b"}).placement_group
    servers = [server(f"spread-{number}", placement_group=group, start_after_create=False) for number in range(10)]
    refused("placement_error", server, "spread-10", placement_group=group)
    assert group.update(name="dieci", labels={}).name == "dieci"
    assert client.placement_groups.get_by_name("dieci").type == "spread"
    delete(*servers)
    assert client.placement_groups.get_all()[0].delete()


@scene
def lists_are_paged_sorted_and_filtered():
    servers = [server(f"page-{number:02}", labels={"n": str(number % 3)}, start_after_create=False) for number in range(7)]
    result = client.servers.get_list(page=2, per_page=3)
    pages = result.meta.pagination
    assert [machine.name for machine in result.servers] == ["page-03", "page-04", "page-05"]
    assert (pages.previous_page, pages.next_page, pages.last_page, pages.total_entries) == (1, 3, 3, 7)
    assert client.servers.get_list(page=3, per_page=3).meta.pagination.next_page is None
    assert client.servers.get_list(page=9).servers == []
    assert len(client.servers.get_all(label_selector="n in (0,1)")) == 5
    assert len(client.servers.get_all(label_selector="n!=0,n")) == 4
    assert client.servers.get_by_name("page") is None, "a name matches as a whole"
    raw = client.request("GET", "/servers", params={"sort": "name:desc"})["servers"]
    assert [machine["name"] for machine in raw] == [f"page-{number:02}" for number in reversed(range(7))]
    refused("invalid_input", client.request, "GET", "/servers", params={"sort": "colour"})
    refused("invalid_input", client.servers.get_list, per_page=51)
    refused("invalid_input", client.servers.get_list, page=0)
    refused("invalid_input", client.servers.get_all, label_selector="a in")
    delete(*servers)


@scene
def networks_have_subnets_and_routes():
    net = client.networks.create(name="n", ip_range="10.8.0.0/16", labels={"a": "b"}, expose_routes_to_vswitch=True)
    assert client.networks.get_by_name("n").expose_routes_to_vswitch
    done(net.add_subnet(NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.8.0.0/24")))
    done(net.add_subnet(NetworkSubnet(type="cloud", network_zone="eu-central", ip_range=None)))
    subnets = client.networks.get_by_id(net.id).subnets
    assert [(subnet.ip_range, subnet.gateway) for subnet in subnets] == [("10.8.0.0/24", "10.8.0.1"), ("10.8.1.0/24", "10.8.0.1")]
    refused("invalid_input", net.add_subnet, NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.8.1.0/25"))
    refused("invalid_input", net.add_subnet, NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.9.0.0/24"))
    refused("invalid_input", net.add_subnet, NetworkSubnet(type="cloud", network_zone="moon", ip_range="10.8.9.0/24"))
    refused("invalid_input", client.networks.create, name="public", ip_range="8.0.0.0/16")
    refused("uniqueness_error", client.networks.create, name="n", ip_range="10.0.0.0/16")
    route = NetworkRoute(destination="10.100.1.0/24", gateway="10.8.0.7")
    done(net.add_route(route))
    assert client.networks.get_by_id(net.id).routes[0].gateway == "10.8.0.7"
    done(net.delete_route(route))
    machine = server("on-net", networks=[net])
    assert machine.private_net[0].ip == "10.8.0.2", "the gateway address is reserved"
    refused("resource_in_use", net.delete_subnet, subnets[0])
    done(net.delete_subnet(subnets[1]))
    done(net.change_ip_range("10.8.0.0/15"))
    refused("invalid_input", net.change_ip_range, "10.8.0.0/17")
    assert net.update(name="m", labels={}, expose_routes_to_vswitch=False).name == "m"
    done(net.change_protection(delete=True))
    refused("protected", net.delete)
    done(net.change_protection(delete=False))
    assert net.get_actions()[0].command == "add_subnet"
    assert net.delete()
    assert client.servers.get_by_id(machine.id).private_net == [], "a network that goes detaches its servers"
    delete(machine)


@scene
def firewalls_are_in_use_until_they_are_taken_off():
    rules = [
        FirewallRule(direction="in", protocol="tcp", port="50000-50001", source_ips=["0.0.0.0/0", "::/0"], description="Talos"),
        FirewallRule(direction="in", protocol="icmp", source_ips=["10.0.0.1/32"]),
        FirewallRule(direction="out", protocol="udp", port="53", destination_ips=["0.0.0.0/0"]),
    ]
    selector = FirewallResource(
        type="label_selector", label_selector=FirewallResourceLabelSelector(selector="walled=yes")
    )
    made = client.firewalls.create(name="w", rules=rules, labels={"a": "b"}, resources=[selector])
    done(*made.actions)
    wall = client.firewalls.get_by_name("w")
    assert [rule.protocol for rule in wall.rules] == ["tcp", "icmp", "udp"] and wall.rules[1].port is None
    inside, outside = server("inside", labels={"walled": "yes"}), server("outside")
    wall = client.firewalls.get_by_id(wall.id)
    assert [resource.server.id for resource in wall.applied_to[0].applied_to_resources] == [inside.id]
    assert inside.public_net.firewalls[0].firewall.id == wall.id and outside.public_net.firewalls == []
    done(*wall.apply_to_resources([FirewallResource(type="server", server=outside)]))
    refused("firewall_already_applied", wall.apply_to_resources, [FirewallResource(type="server", server=outside)])
    refused(
        "firewall_managed_by_label_selector",
        wall.remove_from_resources,
        [FirewallResource(type="server", server=inside)],
    )
    refused("resource_in_use", wall.delete)
    done(*wall.remove_from_resources([FirewallResource(type="server", server=outside), selector]))
    done(*wall.set_rules([]))
    assert client.firewalls.get_by_id(wall.id).rules == []
    for wrong in (
        FirewallRule(direction="in", protocol="tcp", source_ips=["0.0.0.0/0"]),
        FirewallRule(direction="in", protocol="icmp", port="1", source_ips=["0.0.0.0/0"]),
        FirewallRule(direction="in", protocol="icmp", source_ips=[]),
        FirewallRule(direction="in", protocol="icmp", source_ips=["10.0.0.1/8"]),
        FirewallRule(direction="in", protocol="tcp", port="9-8", source_ips=["0.0.0.0/0"]),
    ):
        refused("invalid_input", wall.set_rules, [wrong])
    refused("invalid_input", wall.set_rules, rules[1:2] * 51)
    assert wall.update(name="v").name == "v" and wall.get_actions()
    assert wall.delete()
    delete(inside, outside)


@scene
def primary_ips_can_be_had_before_and_kept_after_a_server():
    ip = client.primary_ips.create(type="ipv4", name="mine", location=FSN1, auto_delete=False, labels={"a": "b"}).primary_ip
    six = client.primary_ips.create(type="ipv6", name="six", location=FSN1).primary_ip
    assert ip.assignee_id is None and ip.location.name == "fsn1" and six.ip.endswith("/64")
    assert client.primary_ips.get_by_name("mine").id == ip.id
    machine = server("keeper", location=FSN1, public_net=ServerCreatePublicNetwork(ipv4=ip, enable_ipv4=True, enable_ipv6=False))
    assert machine.public_net.ipv4.ip == ip.ip and machine.public_net.ipv6 is None
    refused("server_not_stopped", ip.unassign)
    refused("server_not_stopped", six.assign, machine.id, "server")
    done(machine.power_off())
    done(six.assign(machine.id, "server"))
    refused("primary_ip_already_assigned", six.assign, machine.id, "server")
    done(six.unassign())
    done(ip.unassign())
    assert client.servers.get_by_id(machine.id).public_net.ipv4 is None
    done(ip.assign(machine.id, "server"))
    done(ip.change_dns_ptr(ip=ip.ip, dns_ptr="b.example"))
    done(ip.change_protection(delete=True))
    refused("protected", ip.delete)
    done(ip.change_protection(delete=False))
    assert ip.update(name="yours", auto_delete=False).name == "yours"
    assert [action.command for action in ip.get_actions()][:2] == ["unassign_primary_ip", "assign_primary_ip"]
    delete(machine)
    assert client.primary_ips.get_by_id(ip.id).assignee_id is None
    assert ip.delete() and six.delete()
    assert client.primary_ips.get_all() == []


import hcloud_balancers  # noqa: E402, F401  (the import runs its scenes)


@scene
def errors_have_the_documented_shape():
    stranger = Client("wrong", api_endpoint=ENDPOINT)
    refused("unauthorized", stranger.servers.get_all)
    refused("not_found", client.servers.get_by_id, 1)
    refused("not_found", client.request, "GET", "/nowhere")
    refused("not_found", client.request, "POST", "/servers/1/actions/poweron")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    broken = requests.post(f"{ENDPOINT}/servers", data="{", headers=headers)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "json_error")
    missing = requests.post(f"{ENDPOINT}/servers", json={"name": "x"}, headers=headers)
    assert (missing.status_code, missing.json()["error"]["details"]["fields"][0]["name"]) == (422, "server_type")
    assert requests.patch(f"{ENDPOINT}/servers", headers=headers).status_code == 405
    listed = requests.get(f"{ENDPOINT}/servers", headers=headers)
    assert int(listed.headers["RateLimit-Limit"]) > int(listed.headers["RateLimit-Remaining"]) > 0
    assert int(listed.headers["RateLimit-Reset"]) >= int(time.time())
    assert len({requests.get(f"{ENDPOINT}/servers", headers=headers).headers["X-Correlation-Id"] for _ in range(5)}) == 5
    assert requests.get(f"{ENDPOINT}/actions", headers=headers).status_code == 410


@scene
def injected_faults_affect_the_matching_calls():
    impatient = Client(TOKEN, api_endpoint=ENDPOINT, poll_interval=0.02)
    impatient._client._retry_max_retries = 0
    for status, code in ((409, "conflict"), (412, "resource_unavailable"), (423, "locked"), (429, "rate_limit_exceeded"), (500, "server_error"), (503, "unavailable")):
        fault(method="POST", path="/v1/servers", status=status, code=code)
        refused(code, impatient.servers.create, name="f", server_type=CAX11, image=DEBIAN)
    assert impatient.servers.get_all() == []
    fault(method="POST", path="/servers", status=504, code="timeout", after_effect=True)
    refused("timeout", impatient.servers.create, name="f", server_type=CAX11, image=DEBIAN)
    left = impatient.servers.get_by_name("f")
    assert left, "the server exists although the call failed"
    until(lambda: client.servers.get_by_name("f").status == "running")
    fault(method="POST", path=f"/servers/{left.id}/actions/poweroff", status=201, code="action_failed", message="no luck")
    try:
        done(left.power_off())
        raise AssertionError("the action did not fail")
    except ActionFailedException as error:
        assert (error.action.error["code"], error.action.error["message"]) == ("action_failed", "no luck")
    assert client.servers.get_by_id(left.id).status == "running"
    fault(method="POST", path="/servers", status=201, code="out_of_luck", command="start_server")
    made = client.servers.create(name="g", server_type=CAX11, image=DEBIAN)
    done(made.action)
    try:
        made.next_actions[0].wait_until_finished()
        raise AssertionError("the action did not fail")
    except ActionFailedException:
        assert client.servers.get_by_name("g").status == "off"
    fault(method="POST", path="/servers", status=201, code="resource_unavailable")
    made = client.servers.create(name="h", server_type=CAX11, image=DEBIAN)
    until(lambda: client.servers.get_by_name("h") is None)
    fault(method="GET", path="/", status=502, code="bad_gateway", times=2)
    assert client.servers.get_by_name("g"), "the client tries again"
    fault(method="*", path="/", status=500, code="never", times=99)
    assert requests.delete(f"{LAB}/faults").json() == {"faults": []}
    delete(left, client.servers.get_by_name("g"))


@scene
def only_successful_writes_are_counted():
    count = lambda: requests.get(f"{LAB}/writes").json()["writes"]
    before = count()
    client.servers.get_all()
    refused("not_found", client.request, "DELETE", "/servers/1")
    assert count() == before
    key = client.ssh_keys.create(name="counted", public_key=KEYS[0])
    key.delete()
    assert count() == before + 2


@scene
def every_scene_removes_its_resources():
    for family in (client.servers, client.networks, client.firewalls, client.placement_groups, client.ssh_keys, client.load_balancers, client.primary_ips):
        assert family.get_all() == [], family
    assert client.images.get_all(type="snapshot", label_selector="!os") == []


print(f"{len(passed)} passed, 0 failed")
