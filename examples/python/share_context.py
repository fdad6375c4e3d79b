#!/usr/bin/env python3
"""Let one socket adopt another's context, so that its handshake is a resumed one.

A context is the settings of a socket (host name, CAs) and the sessions that its connections have left.
"""

import argparse
import errno
import os
import socket
import sys

IPPROTO_TLS = 205
TLS_HOSTNAME, TLS_TRUSTED_PEER_CERTIFICATES, TLS_ERROR, TLS_CONTEXT, TLS_RESUMED_SESSION = 85, 87, 100, 107, 109


def explain(sock: socket.socket, error: OSError) -> str:
    """What failed, and in words why, if TLS did."""
    if error.errno == errno.ENOPROTOOPT:
        return f"{error}: run this application in a cgroup that ssa-agent serves"
    words = sock.getsockopt(IPPROTO_TLS, TLS_ERROR, 256).rstrip(b"\0").decode()
    return f"{error}: {words}" if words else str(error)


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("host", help="who the server must prove to be")
parser.add_argument("port", nargs="?", default="443")
parser.add_argument("ca_file", nargs="?", help="trust these CAs (PEM) instead of the system's")
parser.add_argument("address", nargs="?", help="connect to this address instead of looking the host up")
args = parser.parse_args()

try:
    places = socket.getaddrinfo(args.address or args.host, args.port, type=socket.SOCK_STREAM)
except socket.gaierror as error:
    sys.exit(f"{args.address or args.host}: {error.strerror}")

for family, kind, protocol, _, address in places:
    with socket.socket(family, kind, protocol) as first, socket.socket(family, kind, protocol) as second:
        sock = first
        try:
            first.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, args.host.encode() + b"\0")
            if args.ca_file:
                first.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, os.fsencode(args.ca_file) + b"\0")
            # From here on the settings are frozen. The second socket needs no others.
            context = first.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
            second.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)

            for sock, name in ((first, "first"), (second, "second")):
                sock.connect(address)
                resumed = sock.getsockopt(IPPROTO_TLS, TLS_RESUMED_SESSION)
                print(f"{name}:", "resumed" if resumed else "full handshake")
                # A TLS 1.3 server sends its tickets after the handshake: read before the next socket connects.
                sock.sendall(f"GET / HTTP/1.1\r\nHost: {args.host}\r\nConnection: close\r\n\r\n".encode())
                while sock.recv(65536):
                    pass
            sys.exit()
        except OSError as error:
            print(f"{address[0]}: {explain(sock, error)}", file=sys.stderr)
sys.exit(1)
