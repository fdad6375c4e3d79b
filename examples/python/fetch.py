#!/usr/bin/env python3
"""Fetch a page over TLS through a plain socket.

Two socket options before connect() are all the TLS there is in this application. When connect() returns, the server has
proved to be HOST, and from then on the socket is read and written like any other.
"""

import argparse
import errno
import os
import socket
import sys
from http.client import HTTPResponse

IPPROTO_TLS = 205
TLS_HOSTNAME = 85
TLS_TRUSTED_PEER_CERTIFICATES = 87
TLS_ERROR = 100


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
    with socket.socket(family, kind, protocol) as sock:
        try:
            sock.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, args.host.encode() + b"\0")
            if args.ca_file:
                sock.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, os.fsencode(args.ca_file) + b"\0")
            sock.connect(address)

            sock.sendall(f"GET / HTTP/1.1\r\nHost: {args.host}\r\nConnection: close\r\n\r\n".encode())
            response = HTTPResponse(sock)  # a reader of plain HTTP: it knows of no TLS
            response.begin()
            body = response.read().decode(errors="replace")
            print(f"{response.status} {response.reason}\n{body}", end="")
            sys.exit()
        except OSError as error:
            print(f"{address[0]}: {explain(sock, error)}", file=sys.stderr)
sys.exit(1)
