"""Connects hundreds of sockets at once, without blocking."""

from ssa import *

port, name, ca = args
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
poller, socks = select.epoll(), {}
first = tls(name, ca)
context = first.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
MANY = 500 // FEWER
for number in range(MANY):
    sock = tls(None)
    sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
    sock.setblocking(False)
    assert attempt(sock.connect, ("127.0.0.1", int(port))) == "EINPROGRESS"
    socks[sock.fileno()] = sock
    poller.register(sock, select.EPOLLOUT)
good, bad, deadline = 0, [], time.monotonic() + 60
while good + len(bad) < MANY and time.monotonic() < deadline:
    for fd, _ in poller.poll(1):
        poller.unregister(fd)
        code = socks[fd].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            bad.append([code, error(socks[fd])])
        else:
            good += 1
echoed = 0
for fd, sock in socks.items():
    sock.setblocking(True)
    sock.sendall(b"%d" % fd)
for fd, sock in socks.items():
    echoed += sock.recv(20) == b"%d" % fd
out([good, bad[:3], echoed])
