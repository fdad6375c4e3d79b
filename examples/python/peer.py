#!/usr/bin/env python3
"""Show what a connected socket tells about its TLS."""

import argparse
import errno
import os
import socket
import struct
import sys

IPPROTO_TLS = 205
TLS_HOSTNAME, TLS_TRUSTED_PEER_CERTIFICATES, TLS_ID, TLS_CHOSEN_CIPHER, TLS_ERROR = 85, 87, 96, 98, 100
TLS_RESUMED_SESSION, TLS_VERSION_CONN, TLS_STATE = 109, 113, 130

VERSIONS = {0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}
STATES = ("fresh", "connecting", "connected", "listening", "failed", "closed by the peer")


def explain(sock: socket.socket, error: OSError) -> str:
    """What failed, and in words why, if TLS did."""
    if error.errno == errno.ENOPROTOOPT:
        return f"{error}: run this application in a cgroup that ssa-agent serves"
    words = sock.getsockopt(IPPROTO_TLS, TLS_ERROR, 256).rstrip(b"\0").decode()
    return f"{error}: {words}" if words else str(error)


parser = argparse.ArgumentParser(description=__doc__)
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

            # With a length, getsockopt gives that many bytes at most; without one, an int.
            print("address:", *sock.getpeername()[:2])
            print("version:", VERSIONS[sock.getsockopt(IPPROTO_TLS, TLS_VERSION_CONN)])
            print("cipher: ", sock.getsockopt(IPPROTO_TLS, TLS_CHOSEN_CIPHER, 256).rstrip(b"\0").decode())
            print("resumed:", "yes" if sock.getsockopt(IPPROTO_TLS, TLS_RESUMED_SESSION) else "no")
            print("id:     ", *struct.unpack("=Q", sock.getsockopt(IPPROTO_TLS, TLS_ID, 8)))
            print("state:  ", STATES[sock.getsockopt(IPPROTO_TLS, TLS_STATE)])
            sys.exit()
        except OSError as error:
            print(f"{address[0]}: {explain(sock, error)}", file=sys.stderr)
sys.exit(1)
