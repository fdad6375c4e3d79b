"""Adopts contexts: frozen ones, those of a closed socket, and as another user."""

from raw import *

owner = tls("peer.ssa.test")
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
frozen = [
    raw_set(owner, TLS_SESSION_REUSE, b"\0\0\0\0", 4),
    raw_set(owner, TLS_TRUSTED_PEER_CERTIFICATES, b"/x\0", 3),
    raw_set(owner, TLS_HOSTNAME, b"b.test\0", 7),
]
adopter = socket.socket()
came = [
    raw_set(adopter, TLS_CONTEXT, context, 8),
    raw_set(adopter, TLS_SESSION_REUSE, b"\0\0\0\0", 4),
    raw_set(adopter, TLS_CONTEXT, context, 8),
]
sizes = [raw_set(socket.socket(), TLS_CONTEXT, context, length) for length in (7, 4, 0)]
owner.close()
still = raw_set(socket.socket(), TLS_CONTEXT, context, 8)
adopter.close()
gone = raw_set(socket.socket(), TLS_CONTEXT, context, 8)
second = tls("peer.ssa.test")
context = second.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
if os.fork() == 0:
    os.setgid(65534)
    os.setuid(65534)
    out([frozen, came, sizes, still, gone, raw_set(socket.socket(), TLS_CONTEXT, context, 8)])
    os._exit(0)
os.wait()
