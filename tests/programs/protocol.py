"""As protocol.c, in Python."""

import os
import select
import socket
import sys

IPPROTO_TLS, HOSTNAME, TRUSTED, CHAIN, KEY = 205, 85, 87, 88, 89
side, nonblock, port, first, second = sys.argv[1:]


def ready(sock, events):
    poller = select.poll()
    poller.register(sock, events)
    assert poller.poll(20000)


def receive(sock):
    ready(sock, select.POLLIN)
    return sock.recv(16)


kind = socket.SOCK_STREAM | (socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC if nonblock == "1" else 0)
sock = socket.socket(socket.AF_INET, kind, IPPROTO_TLS)
assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == IPPROTO_TLS
one, two = (HOSTNAME, TRUSTED) if side == "client" else (CHAIN, KEY)
sock.setsockopt(IPPROTO_TLS, one, first.encode() + b"\0")
sock.setsockopt(IPPROTO_TLS, two, second.encode() + b"\0")
if side == "client":
    code = sock.connect_ex(("127.0.0.1", int(port)))
    if code:
        assert nonblock == "1" and os.strerror(code) == "Operation now in progress", os.strerror(code)
        ready(sock, select.POLLOUT)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert code == 0, os.strerror(code)
    sock.sendall(b"hello")
    print(receive(sock).decode())
else:
    sock.bind(("127.0.0.1", int(port)))
    sock.listen(16)
    print(sock.getsockname()[1], flush=True)
    ready(sock, select.POLLIN)
    conn, _ = sock.accept()
    while part := receive(conn):
        conn.sendall(part)
