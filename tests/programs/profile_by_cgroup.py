"""Moves to a cgroup, and sets the oldest version there. Arguments: the cgroup's path."""

from ssa import *

with open(args[0] + "/cgroup.procs", "w") as procs:
    procs.write("0")
sock = socket.socket()
out([attempt(sock.setsockopt, IPPROTO_TLS, TLS_VERSION_MIN, version) for version in (0x303, 0x304)])
wait()
