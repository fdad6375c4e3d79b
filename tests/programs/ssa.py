"""What the tests' applications have in common: how they talk to their test, and a few short-cuts.

Knows sockets only: this is what any application could do.
"""

import array
import ctypes
import errno
import hashlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

from in_tls import *

args = sys.argv[1:]
# Repetitions are divided by this: 10 on a slow machine.
FEWER = 10 if "SSA_SLOW_MACHINE" in os.environ else 1
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


def out(value):
    """Tells the test."""
    print(json.dumps(value), flush=True)


def wait():
    """Waits for the test."""
    sys.stdin.readline()


def text(value):
    return value.encode() + b"\0"


def tls(host, ca=None, family=socket.AF_INET):
    """A fresh TLS socket."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    if host is not None:
        sock.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text(host))
    if ca is not None:
        sock.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca))
    return sock


def set_credentials(sock, chain, key):
    """A chain, and the key that belongs to it: paths or texts."""
    sock.setsockopt(IPPROTO_TLS, TLS_CERTIFICATE_CHAIN, text(chain))
    sock.setsockopt(IPPROTO_TLS, TLS_PRIVATE_KEY, text(key))


def listener(chain, key, host="127.0.0.1", port=0, family=None, before=None, backlog=128):
    """A TLS socket that listens; `before` may set more options first."""
    sock = socket.socket(family or (socket.AF_INET6 if ":" in host else socket.AF_INET))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    set_credentials(sock, chain, key)
    if before:
        before(sock)
    sock.bind((host, port))
    sock.listen(backlog)
    return sock


def echo(conn):
    """Sends back what it gets, until the other side ends."""
    try:
        while data := conn.recv(65536):
            conn.sendall(data)
    except OSError:
        pass
    conn.close()


def name(code):
    """0 as 'ok', an errno by its name."""
    known = {0: "ok", errno.EOPNOTSUPP: "EOPNOTSUPP"}
    return known.get(code) or errno.errorcode.get(code, str(code))


def attempt(call, *arguments):
    """'ok', or the name of the errno."""
    try:
        call(*arguments)
        return "ok"
    except TimeoutError as error:
        return name(error.errno) if error.errno else "timeout"
    except OSError as error:
        return name(error.errno)


def error(sock):
    return sock.getsockopt(IPPROTO_TLS, TLS_ERROR, 256).rstrip(b"\0").decode()


def state(sock):
    return number(sock, TLS_STATE)


def number(sock, option):
    return sock.getsockopt(IPPROTO_TLS, option)


def id_of(sock, option=TLS_ID):
    return struct.unpack("=Q", sock.getsockopt(IPPROTO_TLS, option, 8))[0]


def string(sock, option):
    return sock.getsockopt(IPPROTO_TLS, option, 256).rstrip(b"\0").decode()


def big(sock, option, size):
    """An answer of up to `size` bytes: Python's own call takes 1024 at most."""
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    if libc.getsockopt(sock.fileno(), IPPROTO_TLS, option, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw[: length.value]


def read_all(sock):
    """Everything up to the end of file."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def connect(sock, host, port):
    """What connect(2) gives, and what TLS_ERROR says then."""
    began = time.monotonic()
    result = attempt(sock.connect, (host, int(port)))
    return {
        "result": result,
        "error": error(sock),
        "ms": (time.monotonic() - began) * 1e3,
        "state": state(sock),
    }
