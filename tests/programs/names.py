"""A name server of the test's own, a forger beside it, and a resolver that asks the first."""

from ssa import *


def question(name, number):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def answer(query, addr, ttl=60):
    header = query[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
    record = struct.pack(">3HIH", 0xC00C, 1, 1, ttl, 4) + socket.inet_aton(addr)
    return header + query[12:] + record


class Resolver:
    """Asks the server at `net`.3, which answers what it is told to, or has the forger at `net`.4 answer.

    Each test has a network of its own: 127.0.1, say.
    """

    def __init__(self, net):
        self.addr = (f"{net}.3", 53)
        self.server = self.bound(f"{net}.3")
        self.forger = self.bound(f"{net}.4")
        self.number = 1000

    @staticmethod
    def bound(addr):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((addr, 53))
        return sock

    def resolve(self, name, addr, by=None, number=None, reply=None):
        """Asks for a name, and is told an address: by the server, with the question's number, unless said otherwise."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        self.number += 1
        sock.sendto(question(name, self.number), self.addr)
        _query, client = self.server.recvfrom(512)
        reply = reply or answer(question(name, number or self.number), addr)
        (by or self.server).sendto(reply, client)
        sock.recv(512)
        return sock


def talk(addr):
    """What a peer at the first argument's port answers, or the errno."""
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect((addr, int(args[0])))
        sock.sendall(b"hello")
        return sock.recv(100).decode()
    except OSError as error:
        return errno.errorcode[error.errno]
