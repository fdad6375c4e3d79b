"""Connects and sends to what rules deny: TCP, MPTCP and UDP, both families."""

from ssa import *


def code(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]


def tcp(port, family=socket.AF_INET, to="127.0.0.1", protocol=0):
    return code(lambda: socket.socket(family, socket.SOCK_STREAM, protocol).connect((to, port)))


def udp(port, how):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return code(
        lambda: (
            sock.connect(("127.0.0.1", port)) if how == "connect" else sock.sendto(b"x", ("127.0.0.1", port))
        )
    )


out(
    [
        tcp(1000),
        tcp(1999, to="0.0.0.0"),
        tcp(1000, socket.AF_INET6, "::ffff:127.0.0.1"),
        tcp(1500),
        tcp(2000),
        tcp(1000, protocol=262),
        udp(443, "connect"),
        udp(443, "sendto"),
        udp(442, "connect"),
        udp(442, "sendto"),
    ]
)
