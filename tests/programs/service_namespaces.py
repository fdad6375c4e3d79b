"""Connects from a network namespace of its own."""

import subprocess

from ssa import *

name_, ca, chain, key, alone = args
port = 4433
if alone == "alone":
    assert libc.unshare(CLONE_NEWNET) == 0
    for words in ("link set lo up", "addr add 10.9.0.1/32 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    host = "10.9.0.1"
else:
    host, port = "127.0.0.1", 0
    probe = socket.socket()
    probe.bind((host, 0))
    port = probe.getsockname()[1]
    probe.close()
server = subprocess.Popen(
    ["openssl", "s_server", "-quiet", "-rev", "-accept", f"{host}:{port}", "-cert", chain, "-key", key],
    stdin=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
while f":{port:04X} 00000000:0000 0A" not in open("/proc/self/net/tcp").read():
    time.sleep(0.05)
try:
    out("up")
    wait()
    sock = tls(name_, ca)
    came = connect(sock, host, port)
    sock.sendall(b"abc\n")
    out([came["result"], sock.recv(10).decode(), sock.getpeername()[0]])
    wait()
finally:
    server.kill()
