"""Reads the addresses of clients that come from another network namespace."""

import subprocess

from serving import *

chain, key, ca = args
assert libc.unshare(CLONE_NEWNET) == 0


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
run("ip", "addr", "add", "10.9.1.1/24", "dev", "d0")
run("ip", "addr", "add", "fd00:9::1/64", "dev", "d0", "nodad")
run("ip", "link", "set", "d0", "up")
run(*there, "ip", "addr", "add", "10.9.1.2/24", "dev", "d1")
run(*there, "ip", "addr", "add", "fd00:9::2/64", "dev", "d1", "nodad")
run(*there, "ip", "link", "set", "d1", "up")
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
