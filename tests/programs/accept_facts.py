"""Accepts three clients, and reads who they are."""

from serving import *

chain, key, ca = args
sock = listener(
    chain,
    key,
    before=lambda sock: [
        sock.setsockopt(IPPROTO_TLS, TLS_ALPN, text("h2,http/1.1")),
        sock.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca)),
        sock.setsockopt(IPPROTO_TLS, TLS_REQUEST_PEER_AUTH, 1),
    ],
)
out(sock.getsockname()[1])
for _ in range(3):
    conn, peer = sock.accept()
    out(
        [
            about(conn),
            peer == conn.getpeername(),
            conn.getsockname() == sock.getsockname(),
            attempt(conn.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, b"x.test\0"),
            attempt(conn.getsockopt, IPPROTO_TLS, TLS_CONTEXT, 8),
            number(conn, TLS_REQUEST_PEER_AUTH),
        ]
    )
    echo(conn)
