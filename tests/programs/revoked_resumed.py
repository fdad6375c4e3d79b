"""Resumes a session of a peer that has been revoked since."""

from ssa import *

host, ca, port = args
first = tls(host, ca)
for option, on in ((TLS_REVOCATION_CHECKS, 1), (TLS_OCSP_STAPLED_CHECKS, 0), (TLS_CACHED_REV_CHECKS, 0)):
    first.setsockopt(IPPROTO_TLS, option, on)
context = id_of(first, TLS_CONTEXT)


def again(sock):
    came = connect(sock, "127.0.0.1", port)
    if came["result"] == "ok":
        sock.sendall(b"x")
        sock.recv(1)
        return ["ok", number(sock, TLS_RESUMED_SESSION)]
    return [came["result"], "certificate revoked" in came["error"] or came["error"]]


def adopted():
    sock = socket.socket()
    sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, struct.pack("=Q", context))
    return sock


out([again(first), again(adopted())])
wait()
out(again(adopted()))
