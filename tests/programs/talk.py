"""An application that knows nothing of TLS: what it sends comes back, or an errno."""

from ssa import *

CANARY = b"canary-in-plain-sight"


def talk(port=None):
    """What comes back from a port (the first argument unless given), and whether that is the peer's; or the errno."""
    port = int(port or args[0])
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect(("127.0.0.1", port))
        sock.sendall(CANARY)
        return [sock.recv(100).decode(), sock.getpeername()[1] == port]
    except OSError as error:
        return errno.errorcode[error.errno]
