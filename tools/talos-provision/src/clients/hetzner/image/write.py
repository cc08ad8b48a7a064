#!/usr/bin/python3
"""Writes an image of Talos onto the disk of this server, and proves it over HTTP.

cloud-init runs this program as root at the first boot. The program overwrites the disk from which it runs.
Therefore everything that it needs is in memory before the first write, and nothing is loaded afterwards.
"""

import ctypes
import encodings.idna  # noqa: F401  the resolver loads it at the first lookup
import fcntl
import hashlib
import hmac
import http.client
import json
import lzma
import os
import socket
import struct
import threading
import time
import urllib.error
import urllib.request

ORDER = json.loads(r"""@ORDER@""")
KEY = bytes.fromhex(ORDER["key"])
DISK = "/dev/sda"
CHUNK_BYTES = 4 << 20
# The smallest server has 2 GB of memory. An image with all official extensions has about 700 MB.
DOWNLOAD_BYTES_MAX = 1 << 30
# The factory builds an image at the first request, which takes minutes.
ANSWER_SECONDS_MAX = 600
DOWNLOAD_TRIES = 4
READ_ONLY_SECONDS_MAX = 60
# Linux, include/uapi/linux/fs.h: BLKDISCARD and BLKFLSBUF.
BLKDISCARD = 0x1277
BLKFLSBUF = 0x1261
# Linux, include/uapi/asm-generic/mman.h: MCL_CURRENT and MCL_FUTURE.
MEMORY_NOW_AND_LATER = 3

report = {"state": "working", "detail": "the server has started"}


def tell(state, detail, **more):
    global report
    report = {"state": state, "detail": detail, **more}


def page():
    body = json.dumps(report).encode()
    page = hmac.new(KEY, body, hashlib.sha256).hexdigest().encode() + b"\n" + body
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    return (head % len(page)).encode() + page


def serve(listener):
    while True:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                request = b""
                while b"\r\n\r\n" not in request and len(request) < 8192:
                    more = connection.recv(4096)
                    if not more:
                        break
                    request += more
                connection.sendall(page())
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def download(url, body=None):
    """Returns the whole answer. An answer that is shorter than it announces is an error."""
    for tries_left in reversed(range(DOWNLOAD_TRIES)):
        try:
            with urllib.request.urlopen(url, body, timeout=ANSWER_SECONDS_MAX) as answer:
                announced = answer.headers.get("Content-Length")
                data = answer.read(DOWNLOAD_BYTES_MAX + 1)
            if len(data) > DOWNLOAD_BYTES_MAX:
                raise ValueError(f"{url} is larger than {DOWNLOAD_BYTES_MAX} bytes")
            if announced is not None and int(announced) != len(data):
                raise OSError(f"{url} ended after {len(data)} of {announced} bytes")
            return data
        except urllib.error.HTTPError as error:
            text = error.read(200).decode("utf-8", "replace").strip()
            if error.code < 500 and error.code != 429 or not tries_left:
                raise ValueError(f"{url} answered with status {error.code}: {text}") from None
        except (OSError, http.client.HTTPException) as error:
            if not tries_left:
                raise ValueError(f"{url} cannot be read: {error}") from None
        time.sleep(2)


def decompressed(packed):
    """Returns the pieces of the image. xz has a checksum for each block, which the module checks."""
    unpacker, view, at = lzma.LZMADecompressor(lzma.FORMAT_XZ), memoryview(packed), 0
    while not unpacker.eof:
        piece = view[at : at + CHUNK_BYTES] if unpacker.needs_input else b""
        if unpacker.needs_input and not piece:
            raise ValueError("the image is truncated")
        at += len(piece)
        data = unpacker.decompress(piece, CHUNK_BYTES)
        if data:
            yield data
    if unpacker.unused_data or at < len(packed):
        raise ValueError("bytes follow the end of the image")


def measure(pieces):
    digest, length = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
    return digest.hexdigest(), length


def stored(disk, length):
    """Returns the pieces of the disk, read from the disk and not from memory."""
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(disk, 0, os.SEEK_SET)
    while length:
        piece = os.read(disk, min(CHUNK_BYTES, length))
        if not piece:
            raise ValueError("the disk is shorter than the image")
        length -= len(piece)
        yield piece


def make_read_only():
    """Remounts all file systems read-only, so that the kernel does not write over the image.

    https://docs.kernel.org/admin-guide/sysrq.html: root may write `u` at any setting of kernel.sysrq. The
    kernel remounts later, in the background.
    """
    os.sync()
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("u")
    for _ in range(READ_ONLY_SECONDS_MAX * 10):
        if os.statvfs("/").f_flag & os.ST_RDONLY:
            return
        time.sleep(0.1)
    raise ValueError("the root file system cannot be remounted read-only")


def of_block_device(disk, request, argument):
    """Sends a request that only speeds up or tidies up. A device may lack it."""
    try:
        fcntl.ioctl(disk, request, argument)
    except OSError:
        pass


def write(disk, packed):
    size = os.lseek(disk, 0, os.SEEK_END)
    # Without this, the snapshot would also contain what the first system has stored behind the image.
    of_block_device(disk, BLKDISCARD, struct.pack("QQ", 0, size))
    os.lseek(disk, 0, os.SEEK_SET)
    for piece in decompressed(packed):
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(disk, rest) :]
    os.fsync(disk)
    of_block_device(disk, BLKFLSBUF, 0)


def build():
    tell("working", "the factory registers the schematic")
    registered = json.loads(download(ORDER["factory"] + "/schematics", ORDER["yaml"].encode()))["id"]
    if registered != ORDER["schematic"]:
        raise ValueError(f"the factory calls the schematic {registered}, and {ORDER['schematic']} was expected")
    tell("working", "the image is downloaded")
    packed = download(ORDER["url"])
    tell("working", "the image is decompressed")
    digest, length = measure(decompressed(packed))
    disk = os.open(DISK, os.O_RDWR)
    if length > os.lseek(disk, 0, os.SEEK_END):
        raise ValueError(f"the image of {length} bytes is larger than the disk")
    # Code and data stay in memory, because the files from which they were loaded go.
    ctypes.CDLL(None).mlockall(MEMORY_NOW_AND_LATER)
    make_read_only()
    tell("working", "the image is written")
    write(disk, packed)
    tell("working", "the disk is compared with the image")
    if measure(stored(disk, length)) != (digest, length):
        raise ValueError("the disk differs from the image after it was written")
    tell("written", "the image is on the disk", sha256=digest, bytes=length)


def main():
    listener = socket.create_server(("", ORDER["port"]), backlog=16)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    try:
        build()
    except Exception as error:  # every failure is reported, because no person can read a log here
        tell("failed", str(error) or type(error).__name__)
    while True:
        time.sleep(3600)


main()
