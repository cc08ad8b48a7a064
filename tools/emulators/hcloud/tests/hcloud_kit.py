"""Helpers that the scenes share: the client, waiting, and the assertion of an error."""

import sys
import time

import requests
from hcloud import APIException, Client
from hcloud.images.domain import Image
from hcloud.load_balancer_types.domain import LoadBalancerType
from hcloud.locations.domain import Location
from hcloud.server_types.domain import ServerType

ENDPOINT, TOKEN = sys.argv[1], sys.argv[2]
LAB = ENDPOINT.removesuffix("/v1") + "/_lab"
KEYS = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f one",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g two",
]
CAX11, CAX21 = ServerType(name="cax11"), ServerType(name="cax21")
DEBIAN = Image(name="debian-13")
FSN1 = Location(name="fsn1")
LB11, LB21 = LoadBalancerType(name="lb11"), LoadBalancerType(name="lb21")

client = Client(TOKEN, api_endpoint=ENDPOINT, poll_interval=0.02, application_name="lab")
passed = []


def scene(function):
    """Runs a scene immediately, and counts it as passed."""
    function()
    passed.append(function.__name__)
    print(f"ok {function.__name__}")
    return function


def refused(code, call, *args, **kwargs):
    """Asserts that the call fails with this code, and returns the error."""
    try:
        call(*args, **kwargs)
    except APIException as error:
        assert error.code == code, f"{error.code}, not {code}: {error}"
        assert error.correlation_id, "no correlation id"
        return error
    raise AssertionError(f"{call} did not fail with {code}")


def done(*actions):
    for action in actions:
        action.wait_until_finished()
        assert action.status == "success" and action.progress == 100 and action.finished, action


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def fault(**kwargs):
    assert requests.post(f"{LAB}/faults", json=[kwargs]).status_code == 200


def server(name, **kwargs):
    made = client.servers.create(name=name, server_type=CAX11, image=DEBIAN, **kwargs)
    done(made.action, *made.next_actions)
    return client.servers.get_by_id(made.server.id)


def delete(*servers):
    done(*[machine.delete() for machine in servers])
