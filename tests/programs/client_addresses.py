"""Reads the addresses of clients that come from another network namespace."""

from serving import *
from veth import *

chain, key, ca = args
connect_ends(("10.9.1.1/24", "fd00:9::1/64"), ("10.9.1.2/24", "fd00:9::2/64"))
came = []
try:
    for host, family, to in (
        ("10.9.1.1", socket.AF_INET, "10.9.1.1"),
        ("0.0.0.0", socket.AF_INET, "10.9.1.1"),
        ("fd00:9::1", socket.AF_INET6, "[fd00:9::1]"),
        ("::", socket.AF_INET6, "[fd00:9::1]"),
        ("::", socket.AF_INET6, "10.9.1.1"),
    ):

        def dual(sock):
            if host == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)

        sock = listener(chain, key, host=host, family=family, before=dual)
        sock.settimeout(10)
        port = sock.getsockname()[1]
        client = subprocess.Popen(
            [
                *there,
                "openssl",
                "s_client",
                "-connect",
                f"{to}:{port}",
                "-servername",
                "server.ssa.test",
                "-CAfile",
                ca,
                "-verify_return_error",
                "-quiet",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        conn, peer = sock.accept()
        came.append(
            [
                peer[0],
                conn.getpeername()[:2] == peer[:2],
                conn.getsockname()[0],
                conn.getsockname()[1] == port,
            ]
        )
        client.kill()
        conn.close()
        sock.close()
    plain = subprocess.run(
        [*there, "timeout", "3", "bash", "-c", f"echo hi > /dev/tcp/10.9.1.1/{port}"],
        stderr=subprocess.DEVNULL,
    )
finally:
    other.kill()
out(came)
