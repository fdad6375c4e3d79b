"""Tries TLS options on MPTCP and SMC sockets."""

from ssa import *

(port,) = args
came = {}
for kind, (family, protocol) in {
    "mptcp": (socket.AF_INET, 262),
    "mptcp6": (socket.AF_INET6, 262),
    "smc": (43, 0),
}.items():
    try:
        sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    except OSError:
        continue
    came[kind] = [attempt(sock.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, b"peer.ssa.test\0")]
    if kind == "smc":
        continue
    host = "::ffff:127.0.0.1" if kind == "mptcp6" else "127.0.0.1"
    came[kind].append(attempt(sock.connect, (host, int(port))))
    came[kind].append(attempt(sock.sendto, b"x", 0x20000000, (host, int(port))))
    # One on which nothing was tried is left alone.
    other = socket.socket(family, socket.SOCK_STREAM, protocol)
    came[kind].append(attempt(other.connect, (host, int(port))))
out(came)
