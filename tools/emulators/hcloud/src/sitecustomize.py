"""Gives Python in a machine of the emulator one network interface: the public address of its server."""

import os
import socket

_bind = socket.socket.bind


def bind(self, address):
    if isinstance(address, tuple) and address[0] in ("", "0.0.0.0"):
        address = (os.environ["MACHINE_ADDRESS"], *address[1:])
    return _bind(self, address)


socket.socket.bind = bind
