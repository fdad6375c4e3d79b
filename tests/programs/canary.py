"""A text that must never be seen on the wire, and an application that sends it whatever happens."""

from ssa import *

canary = b"canary-7f3a91c2-must-not-be-seen"


def send_regardless(sock):
    """What an application does that looks at no error."""
    try:
        sock.sendall(canary * 10)
    except OSError:
        pass
