"""Binds to addresses and an interface before connect, between two network namespaces."""

from veth import *

name_, ca, chain, key = args
connect_ends(("10.9.0.1/24", "10.9.0.3/24", "fe80::9:1/64"), ("10.9.0.2/24", "fe80::9:2/64"))
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
