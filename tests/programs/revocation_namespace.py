"""Connects to a peer whose CRL is to be had in this network namespace only."""

import subprocess

from ssa import *

host, ca, chain, key, port, folder = args
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
servers = [
    subprocess.Popen(
        ["openssl", "s_server", "-quiet", "-rev", "-accept", "4433", "-cert", chain, "-key", key], **quiet
    ),
    subprocess.Popen(["python3", "-m", "http.server", port, "--bind", "127.0.0.1", "-d", folder], **quiet),
]
for waited in (4433, int(port)):
    while attempt(lambda: socket.create_connection(("127.0.0.1", waited)).close()) != "ok":
        time.sleep(0.05)
sock = tls(host, ca)
sock.setsockopt(IPPROTO_TLS, TLS_REVOCATION_CHECKS, 1)
came = connect(sock, "127.0.0.1", 4433)
for server in servers:
    server.kill()
out([came["result"], came["error"]])
