"""Sets options until the ring buffer of events is full, and again when it is not."""

from ssa import *

name_, ca, port = args
sock = tls(name_, ca)
sock.connect(("127.0.0.1", int(port)))
out("connected")
wait()
for turn in range(60000):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, turn & 1)
fresh = socket.socket()
out([attempt(fresh.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, text(name_)), string(fresh, TLS_HOSTNAME)])
wait()
fresh.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text(name_))
fresh.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca))
said = [connect(fresh, "127.0.0.1", port)["result"]]
for one in (sock, fresh):
    one.sendall(b"x")
    said.append(one.recv(1).decode())
out(said)
