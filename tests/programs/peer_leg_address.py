"""Binds to addresses and an interface before connect, between two network namespaces."""

import subprocess

from ssa import *

name_, ca, chain, key = args
assert libc.unshare(CLONE_NEWNET) == 0


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
for addr in ("10.9.0.1/24", "10.9.0.3/24", "fe80::9:1/64"):
    (
        run("ip", "addr", "add", addr, "dev", "d0", "nodad")
        if ":" in addr
        else run("ip", "addr", "add", addr, "dev", "d0")
    )
run("ip", "link", "set", "d0", "up")
for addr in ("10.9.0.2/24", "fe80::9:2/64"):
    run(*there, "ip", "addr", "add", addr, "dev", "d1", *(["nodad"] if ":" in addr else []))
run(*there, "ip", "link", "set", "d1", "up")
servers = [
    subprocess.Popen(
        [*there, "openssl", "s_server", "-quiet", "-rev", "-accept", where, "-cert", chain, "-key", key],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for where in ("10.9.0.2:4433", "[fe80::9:2%d1]:4434")
]


def listening(port):
    return any(f":{port:04X} " in open(f"/proc/{other.pid}/net/{table}").read() for table in ("tcp", "tcp6"))


while not (listening(4433) and listening(4434)):
    time.sleep(0.05)
came = {}
try:
    bound = tls(name_, ca)
    bound.setsockopt(socket.SOL_SOCKET, 25, b"d0\0")
    came["interface"] = connect(bound, "10.9.0.2", 4433)["result"]
    bound.send(b"abc\n")
    came["echo"] = bound.recv(10).decode()
    came["names"] = [bound.getsockname()[0], bound.getpeername()[0]]
    bound.close()
    source = tls(name_, ca)
    source.bind(("10.9.0.3", 0))
    came["address"] = [connect(source, "10.9.0.2", 4433)["result"], source.getsockname()[0]]
    source.close()
    local = tls(name_, ca, socket.AF_INET6)
    local.setsockopt(socket.SOL_SOCKET, 25, b"d0\0")
    came["link-local"] = attempt(local.connect, ("fe80::9:2", 4434, 0, socket.if_nametoindex("d0")))
    wrong = tls(name_, ca)
    wrong.setsockopt(socket.SOL_SOCKET, 25, b"lo\0")
    came["other interface"] = connect(wrong, "10.9.0.2", 4433)["result"]
finally:
    for server in servers:
        server.kill()
    other.kill()
out(came)
