"""Scenes of load balancers, with real servers behind them. Run by `hcloud_client.py`."""

import socket
import threading
import time

from hcloud.load_balancers.domain import (
    LoadBalancerAlgorithm,
    LoadBalancerCreatePublicNetwork,
    LoadBalancerHealthCheck,
    LoadBalancerHealthCheckHttp,
    LoadBalancerService,
    LoadBalancerServiceHttp,
    LoadBalancerTarget,
    LoadBalancerTargetIP,
    LoadBalancerTargetLabelSelector,
)
from hcloud.networks.domain import NetworkSubnet
from hcloud_kit import FSN1, LB11, LB21, client, delete, done, refused, scene, server, until


class Echo:
    """A server on a machine's address that answers with its name and the client's text."""

    def __init__(self, address, port, name):
        self.socket = socket.create_server((address, port))
        self.name = name
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            heard = b""
            while part := connection.recv(65536):
                heard += part
            connection.sendall(self.name + b":" + heard)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def ask(address, port, text=b"hello"):
    """Sends the text, closes the sending half, and returns the answer; empty if the connection is closed."""
    with socket.create_connection((address, port), timeout=5) as connection:
        heard = b""
        try:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                heard += part
        except TimeoutError:
            raise
        except OSError:
            pass
        return heard


def closed(address, port):
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return True
    return False


def healths(balancer):
    targets = client.load_balancers.get_by_id(balancer.id).targets
    all_targets = [inner for target in targets for inner in (target.targets or [target])]
    return [status.status for target in all_targets for status in target.health_status or []]


@scene
def a_load_balancer_carries_connections_to_healthy_targets():
    made = client.load_balancers.create(
        name="lb",
        load_balancer_type=LB11,
        location=FSN1,
        algorithm=LoadBalancerAlgorithm(type="round_robin"),
        services=[
            LoadBalancerService(
                protocol="tcp",
                listen_port=6443,
                destination_port=16443,
                proxyprotocol=False,
                health_check=LoadBalancerHealthCheck(protocol="tcp", port=16443, interval=3, timeout=2, retries=2),
            )
        ],
        targets=[
            LoadBalancerTarget(
                type="label_selector",
                label_selector=LoadBalancerTargetLabelSelector(selector="role=control-plane"),
                use_private_ip=False,
            )
        ],
        labels={"a": "b"},
    )
    done(made.action)
    balancer = client.load_balancers.get_by_name("lb")
    address = balancer.public_net.ipv4.ip
    assert address.split(".")[2] == "200" and balancer.targets[0].targets == []
    assert ask(address, 6443) == b"", "no target answers yet"
    machines = [server(f"cp-{number}", labels={"role": "control-plane"}) for number in range(3)]
    addresses = [machine.public_net.ipv4.ip for machine in machines]
    assert len(set(addresses)) == 3
    until(lambda: healths(balancer) == ["unhealthy"] * 3)
    echoes = [Echo(address, 16443, str(index).encode()) for index, address in enumerate(addresses)]
    until(lambda: healths(balancer) == ["healthy"] * 3)
    answers = [ask(address, 6443) for _ in range(6)]
    assert sorted(answers) == [b"0:hello"] * 2 + [b"1:hello"] * 2 + [b"2:hello"] * 2, answers
    large = b"x" * 5_000_000
    assert ask(address, 6443, large)[2:] == large
    echoes[0].close()
    assert {ask(address, 6443)[:1] for _ in range(6)} == {b"1", b"2"}, "a target that refuses connections is skipped immediately"
    until(lambda: sorted(healths(balancer)) == ["healthy", "healthy", "unhealthy"])
    echoes[0] = Echo(addresses[0], 16443, b"0")
    until(lambda: healths(balancer) == ["healthy"] * 3)
    done(balancer.change_algorithm(LoadBalancerAlgorithm(type="least_connections")))
    held = socket.create_connection((address, 6443), timeout=5)
    held.sendall(b"held")
    time.sleep(0.1)
    spared = set()
    for _ in range(8):
        spared.add(ask(address, 6443)[:1])
        time.sleep(0.05)  # until the closed connection is no longer counted
    assert len(spared) == 2, "the busy target is spared"
    held.shutdown(socket.SHUT_WR)
    assert held.recv(100)[1:] == b":held"
    held.close()

    done(balancer.update_service(LoadBalancerService(listen_port=6443, destination_port=16444)))
    service = client.load_balancers.get_by_id(balancer.id).services[0]
    assert (service.destination_port, service.health_check.port, service.health_check.retries) == (16444, 16443, 2)
    assert ask(address, 6443) == b"", "nothing is at the new port"
    done(balancer.update_service(LoadBalancerService(listen_port=6443, destination_port=16443)))
    assert ask(address, 6443)[1:] == b":hello"
    refused("source_port_already_used", balancer.add_service, service)
    done(balancer.add_service(LoadBalancerService(protocol="tcp", listen_port=7000, destination_port=16443, proxyprotocol=True)))
    until(lambda: healths(balancer) == ["healthy"] * 6)
    assert b":PROXY TCP4 127." in ask(address, 7000)
    done(balancer.delete_service(LoadBalancerService(listen_port=7000)))
    until(lambda: closed(address, 7000))
    for echo in echoes:
        echo.close()
    done(balancer.delete().action)
    until(lambda: closed(address, 6443))
    refused("not_found", client.load_balancers.get_by_id, balancer.id)
    delete(*machines)


@scene
def a_load_balancer_takes_targets_services_and_networks():
    network = client.networks.create(
        name="lb-net",
        ip_range="10.0.0.0/16",
        subnets=[NetworkSubnet(type="cloud", ip_range="10.0.0.0/24", network_zone="eu-central")],
    )
    balancer = client.load_balancers.create(name="web", load_balancer_type=LB11, network_zone="eu-central").load_balancer
    until(lambda: all(action.status == "success" for action in balancer.get_actions()))
    machine, other = server("web-1"), server("web-2", networks=[network])
    private = LoadBalancerTarget(type="server", server=other, use_private_ip=True)
    refused("load_balancer_not_attached_to_network", balancer.add_target, private)
    done(balancer.attach_to_network(network, ip="10.0.0.50"))
    refused("load_balancer_already_attached", balancer.attach_to_network, network)
    assert client.load_balancers.get_by_id(balancer.id).private_net[0].ip == "10.0.0.50"
    done(balancer.add_target(private))
    refused("server_not_attached_to_network", balancer.add_target, LoadBalancerTarget(type="server", server=machine, use_private_ip=True))
    refused("target_already_defined", balancer.add_target, private)
    public = LoadBalancerTarget(type="server", server=machine, use_private_ip=False)
    done(balancer.add_target(public))
    ip = LoadBalancerTarget(type="ip", ip=LoadBalancerTargetIP(ip="127.1.2.3"))
    done(balancer.add_target(ip))
    refused("cloud_resource_ip_not_allowed", balancer.add_target, LoadBalancerTarget(type="ip", ip=LoadBalancerTargetIP(ip=machine.public_net.ipv4.ip)))
    done(
        balancer.add_service(
            LoadBalancerService(
                protocol="http",
                listen_port=8080,
                destination_port=18080,
                proxyprotocol=False,
                http=LoadBalancerServiceHttp(sticky_sessions=True, cookie_name="C", cookie_lifetime=60),
                health_check=LoadBalancerHealthCheck(
                    protocol="http", port=18080, interval=15, timeout=10, retries=3, http=LoadBalancerHealthCheckHttp(path="/up", tls=False)
                ),
            )
        )
    )
    shown = client.load_balancers.get_by_id(balancer.id)
    assert shown.services[0].http.sticky_sessions and shown.services[0].health_check.http.path == "/up"
    assert {target.type for target in shown.targets} == {"server", "ip"}
    assert client.servers.get_by_id(machine.id).data_model is not None
    refused("targets_without_use_private_ip", balancer.disable_public_interface)
    done(balancer.remove_target(public))
    done(balancer.remove_target(ip))
    refused("not_found", balancer.remove_target, ip)
    done(balancer.disable_public_interface())
    assert not client.load_balancers.get_by_id(balancer.id).public_net.enabled
    done(balancer.enable_public_interface())
    done(balancer.change_type(LB21))
    assert client.load_balancers.get_by_id(balancer.id).load_balancer_type.name == "lb21"
    done(balancer.change_dns_ptr(ip=shown.public_net.ipv4.ip, dns_ptr="lb.example"))
    delete(other)
    assert client.load_balancers.get_by_id(balancer.id).targets == [], "a deleted server is no longer a target"
    done(balancer.detach_from_network(network))
    done(balancer.change_protection(delete=True))
    refused("protected", balancer.delete)
    done(balancer.change_protection(delete=False))
    assert balancer.update(name="www", labels={"x": "y"}).name == "www"
    refused("uniqueness_error", client.load_balancers.create, name="www", load_balancer_type=LB11, location=FSN1)
    done(balancer.delete().action)
    delete(machine)
    network.delete()


@scene
def a_balancer_keeps_an_existing_primary_ip_for_its_whole_life():
    ip = client.primary_ips.create(type="ipv4", name="endpoint", location=FSN1, auto_delete=False).primary_ip
    assert ip.assignee_id is None and ip.assignee_type == "unassigned"
    addresses = []
    for name in ("first", "second"):
        made = client.load_balancers.create(
            name=name, load_balancer_type=LB11, location=FSN1, public_net=LoadBalancerCreatePublicNetwork(ipv4=ip)
        )
        done(made.action)
        balancer = client.load_balancers.get_by_id(made.load_balancer.id)
        assert balancer.public_net.ipv4.ip == ip.ip and balancer.public_net.ipv4.primary_ip.id == ip.id
        held = client.primary_ips.get_by_id(ip.id)
        assert (held.assignee_type, held.assignee_id) == ("load_balancer", balancer.id)
        addresses.append(balancer.public_net.ipv4.ip)
        done(balancer.delete().action)
    assert addresses[0] == addresses[1], "the address survives the balancer"
    assert ip.delete()
