"""Resolves names over TCP, with answers in pieces."""

from names import *

SERVER = ("127.0.8.3", 53)
listener = socket.create_server(SERVER)


def by_tcp(name, addr, own, said=None):
    """Asks with the number `own`, and is told an address, with that of `said`."""
    sock = socket.create_connection(SERVER)
    asked = question(name, own)
    sock.sendall(struct.pack(">H", len(asked)))
    sock.sendall(asked)
    peer, _client = listener.accept()
    assert peer.recv(2 + len(asked), socket.MSG_WAITALL)[2:] == asked
    reply = answer(question(name, said or own), addr)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(struct.pack(">H", len(reply)) + reply[:20])
    time.sleep(0.05)
    peer.sendall(reply[20:])
    sock.recv(2 + len(reply), socket.MSG_WAITALL)


said = [talk("127.0.0.1")]
by_tcp("one.ssa.test", "127.0.0.1", 1001, said=7)
said.append(talk("127.0.0.1"))
by_tcp("one.ssa.test", "127.0.0.1", 1002)
said.append(talk("127.0.0.1"))
out(said)
