"""Connects with a context that other sockets have adopted, and with a name of its own."""

from ssa import *

port, host, ca = args
owner = tls(host, ca)
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
came = []
for turn in range(4):
    sock = owner if turn == 0 else socket.socket()
    if turn:
        sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(b"x")
    sock.recv(1)
    came.append(
        [
            number(sock, TLS_RESUMED_SESSION),
            string(sock, TLS_HOSTNAME),
            id_of(sock) != struct.unpack("=Q", context)[0],
        ]
    )
    if turn:
        sock.close()
other = tls(None)
other.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
other.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, b"other.ssa.test\0")
came.append([connect(other, "127.0.0.1", port)["result"], string(owner, TLS_HOSTNAME)])
out(came)
