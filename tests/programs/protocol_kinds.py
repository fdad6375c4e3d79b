"""Makes sockets of every family, type and protocol."""

from ssa import *

kinds = [
    (f, t, p)
    for f in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)
    for t in range(8)
    for p in (0, 6, 17, 205, 262, 256)
]
kinds += [
    (socket.AF_INET, socket.SOCK_STREAM | flag, 205)
    for flag in (socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC, 0x100)
]
came = []
for family, kind, protocol in kinds:
    fd = libc.socket(family, kind, protocol)
    found = name(ctypes.get_errno()) if fd < 0 else "made"
    if fd >= 0:
        if family in (socket.AF_INET, socket.AF_INET6):
            found = str(socket.socket(fileno=os.dup(fd)).getsockopt(1, 38))
        os.close(fd)
    came.append([family, kind, protocol, found])
out(came)
