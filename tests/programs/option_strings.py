"""Sets strings with and without their NUL, and of every length that matters."""

from raw import *

came = {}
for option in range(TLS_HOSTNAME, TLS_ALPN + 1):
    good = b"name.test\0"
    came[option] = [
        raw_set(socket.socket(), option, *case)
        for case in (
            (good, 10),
            (good, 9),
            (b"name\0test\0", 10),
            (b"name.test\0\0", 11),
            (b"\0", 1),
            (good, 0),
            (None, 0),
            (None, 10),
            (1, 10),
            (good, -1),
        )
    ]
    long = b"x" * 4095 + b"\0"
    came[option] += [
        raw_set(socket.socket(), option, long, 4096),
        raw_set(socket.socket(), option, long + b"\0", 4097),
    ]
    sock = socket.socket()
    came[option].append([raw_set(sock, option, b"name.test\0", 10), raw_set(sock, option, b"bad", 3)])
    if option not in (TLS_TRUSTED_PEER_CERTIFICATES, TLS_CERTIFICATE_CHAIN, TLS_PRIVATE_KEY):
        came[option].append(string(sock, option))
out(came)
