"""Uses one TLS socket from a child, through a duplicate, and after it was passed over a UNIX socket."""

from ssa import *

port, name, ca = args
sock = tls(name, ca)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    # The child connects the inherited socket, and passes a duplicate back.
    sock.connect(("127.0.0.1", int(port)))
    socket.send_fds(theirs, [b"x"], [os.dup(sock.fileno())])
    os._exit(0)
_, fds, _, _ = socket.recv_fds(ours, 1, 1)
os.wait()
passed = socket.socket(fileno=fds[0])
same = id_of(passed) == id_of(sock)
sock.sendall(b"hello")
first = passed.recv(10).decode()
sock.close()
passed.sendall(b"still")
out([same, first, passed.recv(10).decode(), state(passed)])
