"""Connects without blocking, and waits for the end by select, poll and epoll."""

from ssa import *

port, name, ca = args
came = []
for wait_by in ("poll", "epoll", "select"):
    sock = tls(name, ca)
    sock.setblocking(False)
    first = attempt(sock.connect, ("127.0.0.1", int(port)))
    early = state(sock)
    again = attempt(sock.connect, ("127.0.0.1", int(port)))
    if wait_by == "poll":
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        ready = len(poller.poll(5000))
    elif wait_by == "epoll":
        poller = select.epoll()
        poller.register(sock, select.EPOLLOUT)
        ready = len(poller.poll(5))
    else:
        ready = len(select.select([], [sock], [], 5)[1])
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    sock.setblocking(True)
    sock.sendall(b"hello")
    came.append([first, early, again, ready, code, state(sock), sock.recv(10).decode()])
out(came)
