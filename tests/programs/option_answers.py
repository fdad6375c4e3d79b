"""Reads answers into buffers that are too small, and through pointers to nowhere."""

from raw import *

port, host, ca = args
sock = tls(host, ca)
sock.connect(("127.0.0.1", int(port)))
came = [raw_get(sock, TLS_HOSTNAME, length) for length in (255, len(host) + 1, len(host), 1, 0)]
came += [raw_get(sock, TLS_CHOSEN_CIPHER, length)[0] for length in (4096, 8192, 64, 10)]
came += [
    raw_get(sock, TLS_HOSTNAME, 255, 1)[0],
    raw_get(sock, TLS_ID, 8, 1)[0],
    raw_get(sock, TLS_ID, 8, None)[0],
    raw_get(sock, TLS_CHOSEN_CIPHER, 64, None)[0],
]
came += [raw_get(sock, 999, 8, None)[0], raw_get(tls(host), TLS_ID, 8, None)[0]]
out(came)
