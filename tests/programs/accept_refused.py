"""Listens with credentials that are missing, or no good."""

from serving import *

chain, key, other = args
came = []
for sets in (
    [],
    [(TLS_CERTIFICATE_CHAIN, chain)],
    [(TLS_CERTIFICATE_CHAIN, chain), (TLS_PRIVATE_KEY, other)],
    [(TLS_CERTIFICATE_CHAIN, "/nowhere.pem"), (TLS_PRIVATE_KEY, key)],
):
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
        sock = socket.socket(family)
        sock.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, b"x.test\0")
        for option, value in sets:
            sock.setsockopt(IPPROTO_TLS, option, text(value))
        sock.bind((host, 0))
        sock.listen()
        sock.settimeout(5)
        came.append([attempt(sock.accept), error(sock)])
out(came)
