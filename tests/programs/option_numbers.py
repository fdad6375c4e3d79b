"""Sets and gets numbers of other sizes and values."""

from raw import *

came = []
for value, length in (
    (b"\1\0\0\0", 4),
    (b"\0\0\0\0", 4),
    (b"\2\0\0\0", 4),
    (b"\xff\xff\xff\xff", 4),
    (b"\1\0\0", 3),
    (b"\1\0\0\0\0", 5),
    (b"\1" + b"\0" * 7, 8),
    (b"", 0),
    (None, 4),
    (None, 0),
):
    sock = tls("name.test")
    came.append([raw_set(sock, TLS_SESSION_REUSE, value, length), number(sock, TLS_SESSION_REUSE)])
sock = tls("name.test")
gets = [raw_get(sock, TLS_SESSION_REUSE, length) for length in (4, 3, 5, 0)] + [
    raw_get(sock, TLS_ID, length)[:2] for length in (8, 4, 16, 0)
]
out([came, gets])
