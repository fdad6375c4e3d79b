"""Connects to what no route leads to, in a network namespace of its own."""

from ssa import *

name, ca = args
import subprocess

import ctypes

libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(CLONE_NEWNET) == 0


def ip(*words):
    subprocess.run(["ip", *words], check=True)


ip("link", "set", "lo", "up")
ip("link", "add", "d0", "type", "veth", "peer", "name", "d1")
ip("addr", "add", "192.0.2.1/24", "dev", "d0")
ip("addr", "add", "2001:db8::1/64", "dev", "d0", "nodad")
ip("link", "set", "d0", "up")
ip("link", "set", "d1", "up")
ip("route", "add", "unreachable", "198.51.100.0/24")
ip("-6", "route", "add", "unreachable", "2001:db8:1::/48")
came = {}
for case, host in (
    ("no route", "203.0.113.1"),
    ("unreachable host", "198.51.100.1"),
    ("no route, IPv6", "2001:db8:2::1"),
    ("unreachable host, IPv6", "2001:db8:1::1"),
):
    sock = tls(name, ca, socket.AF_INET6 if ":" in host else socket.AF_INET)
    came[case] = connect(sock, host, 443)
    plain = socket.socket(sock.family)
    came[case]["plain"] = attempt(plain.connect, (host, 443))
out(came)
