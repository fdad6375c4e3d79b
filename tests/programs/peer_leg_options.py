"""Sets options of other levels before and after connect."""

from ssa import *

host, port, name_, ca, level, tos = args
level, tos = int(level), int(tos)
SO, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
sock = tls(name_, ca, socket.AF_INET6 if ":" in host else socket.AF_INET)
for where, option, value in (
    (SO, 9, 1),
    (TCP, 4, 33),
    (TCP, 5, 7),
    (TCP, 6, 3),
    (TCP, 18, 5000),
    (level, tos, 0x10),
    (SO, 36, 7),
    (SO, 12, 3),
    (SO, 7, 60000),
    (SO, 8, 50000),
):
    sock.setsockopt(where, option, value)
sock.connect((host, int(port)))
out([sock.getsockopt(SO, 7), sock.getsockopt(SO, 8)])
wait()
sock.setsockopt(TCP, 4, 44)
sock.setsockopt(TCP, 1, 1)
sock.setsockopt(SO, 9, 0)
sock.setsockopt(level, tos, 0x08)
assert attempt(sock.setsockopt, TCP, 5, -1) == "EINVAL"
out("changed")
wait()
sock.setsockopt(TCP, 1, 0)
out("changed")
wait()
