"""Short-cuts for the list of cipher suites."""

from ssa import *

DISABLE, LIST, ENABLE = TLS_DISABLE_CIPHER, TLS_TRUSTED_CIPHERS, TLS_ENABLE_CIPHER


def listed(sock):
    return big(sock, LIST, 4096).rstrip(b"\0").decode().split(":")


def put(sock, option, value):
    return attempt(sock.setsockopt, IPPROTO_TLS, option, text(value))
