"""Reads who the peer is, of a first and of a resumed connection."""

from ssa import *

port, host, ca = args
owner = tls(host, ca)
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
came = []
for turn in range(2):
    sock = tls(None)
    sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
    sock.connect(("127.0.0.1", int(port)))
    sock.sendall(b"x")
    sock.recv(1)
    came.append(
        [
            number(sock, TLS_RESUMED_SESSION),
            string(sock, TLS_PEER_IDENTITY),
            number(sock, TLS_PEER_CERTIFICATE_COUNT),
            sock.getsockopt(IPPROTO_TLS, TLS_PEER_CERTIFICATE_SHA256, 32).hex(),
        ]
    )
    sock.close()
out(came)
