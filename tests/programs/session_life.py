"""Resumes sessions within and after the time that they may live."""

from ssa import *

port, host, ca = args
TTL = 91
came = []
for ttl in (0, 1, 3600):
    owner = tls(host, ca)
    default = struct.unpack("=q", owner.getsockopt(IPPROTO_TLS, TTL, 8))[0]
    owner.setsockopt(IPPROTO_TLS, TTL, struct.pack("=q", ttl))
    context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
    row = []
    for pause in (0, 0, 1.3):
        time.sleep(pause)
        sock = tls(None)
        sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
        sock.connect(("127.0.0.1", int(port)))
        sock.sendall(b"x")
        sock.recv(1)
        row.append(number(sock, TLS_RESUMED_SESSION))
        sock.close()
    came.append(row)
out([came, default, attempt(tls(host).setsockopt, IPPROTO_TLS, TTL, struct.pack("=q", -1))])
