"""An independent client, PyPI's talos-linux-api-v1-6-0, against one machine.

    foreign.py ADDRESS FOLDER     FOLDER holds config.yaml, admin.crt, admin.key and admin.ca.crt

Applies the configuration, bootstraps the cluster, and writes FOLDER/kubeconfig.
"""

import asyncio
import gzip
import ssl
import sys
from pathlib import Path

import betterproto.lib.google.protobuf as google
from grpclib import GRPCError
from grpclib.client import Channel
from grpclib.const import Status
from talos_linux_api.v1_6_0 import machine

NOTHING = google.Empty()


def service(address, context):
    channel = Channel(address, 50000, ssl=context)
    return channel, machine.MachineServiceStub(channel)


def maintenance():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def admin(folder):
    context = ssl.create_default_context(cafile=folder / "admin.ca.crt")
    context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    context.set_alpn_protocols(["h2"])
    return context


async def until(what, attempt, seconds=60):
    error = None
    for _ in range(seconds * 5):
        try:
            return await attempt()
        except (GRPCError, OSError, asyncio.TimeoutError) as caught:
            error = caught
            await asyncio.sleep(0.2)
    raise SystemExit(f"{what}: {error!r}")


async def main(address, folder):
    channel, talos = service(address, maintenance())
    version = await until("maintenance mode", lambda: talos.version(NOTHING, timeout=2))
    assert version.messages[0].version.tag == "v1.13.9", version
    assert version.messages[0].platform.mode == "cloud", version
    try:
        await talos.etcd_member_list(machine.EtcdMemberListRequest(), timeout=2)
        raise SystemExit("a machine in maintenance mode listed members")
    except GRPCError as error:
        assert error.status is not Status.OK
    config = (folder / "config.yaml").read_bytes()
    applied = await talos.apply_configuration(
        machine.ApplyConfigurationRequest(data=config, mode=machine.ApplyConfigurationRequestMode.AUTO), timeout=10
    )
    assert applied.messages[0].mode == machine.ApplyConfigurationRequestMode.NO_REBOOT, applied
    channel.close()

    channel, talos = service(address, admin(folder))
    services = await until("the node's own API", lambda: talos.service_list(NOTHING, timeout=2))
    states = {entry.id: entry.state for entry in services.messages[0].services}
    assert states["etcd"] in ("Starting", "Waiting", "Preparing"), states

    async def data():
        request = machine.ListRequest(root="/var/lib/etcd")
        return [entry.relative_name async for entry in talos.list(request, timeout=5)]

    files = await until("the volume of etcd", data)
    assert files == ["."], files

    async def bootstrap():
        try:
            await talos.bootstrap(machine.BootstrapRequest(), timeout=5)
        except GRPCError as error:
            if error.status is not Status.FAILED_PRECONDITION:
                raise SystemExit(f"bootstrap: {error!r}")
            raise

    await until("bootstrap", bootstrap)
    try:
        await talos.bootstrap(machine.BootstrapRequest(), timeout=5)
        raise SystemExit("a second bootstrap was accepted")
    except GRPCError as error:
        assert error.status is Status.ALREADY_EXISTS, error

    members = await until("members", lambda: talos.etcd_member_list(machine.EtcdMemberListRequest(), timeout=5))
    assert [member.hostname for member in members.messages[0].members] == ["foreign"], members
    dry = await talos.apply_configuration(
        machine.ApplyConfigurationRequest(
            data=config + b"# a comment\n", mode=machine.ApplyConfigurationRequestMode.AUTO, dry_run=True
        ),
        timeout=10,
    )
    assert "Applied configuration without a reboot (skipped in dry-run)" in dry.messages[0].mode_details, dry
    assert "No changes." in dry.messages[0].mode_details, dry
    packed = b""
    async for part in talos.kubeconfig(NOTHING, timeout=10):
        packed += part.bytes
    entry = gzip.decompress(packed)
    size = int(entry[124:135], 8)
    assert entry[:10] == b"kubeconfig" and len(entry) == 512 + size
    (folder / "kubeconfig").write_bytes(entry[512:])
    channel.close()


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
