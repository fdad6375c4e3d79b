"""Opens TLS sockets up to the limits, as two users."""

from ssa import *


def opened(count):
    came = []
    for _ in range(count):
        sock = socket.socket()
        keep.append(sock)
        came.append(attempt(sock.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, b"name.test\0"))
    return came


keep = []
first = opened(6)
connected = attempt(keep[-1].connect, ("127.0.0.1", 9))
pid = os.fork()
if pid == 0:
    os.setuid(12345)
    out([first, connected, opened(3)])
    os._exit(0)
os.waitpid(pid, 0)
for sock in keep:
    sock.close()
out(opened(5))
