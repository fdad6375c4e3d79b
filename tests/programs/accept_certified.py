"""Demands client certificates, with CAs and without."""

from serving import *

chain, key, ca = args
sock = listener(
    chain,
    key,
    before=lambda sock: [
        sock.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca)),
        sock.setsockopt(IPPROTO_TLS, TLS_REQUEST_PEER_AUTH, 2),
    ],
)
out(sock.getsockname()[1])
conn, _ = sock.accept()
out(about(conn)["identity"])
conn.close()
no_ca = listener(chain, key, before=lambda sock: sock.setsockopt(IPPROTO_TLS, TLS_REQUEST_PEER_AUTH, 2))
no_ca.settimeout(5)
out([attempt(no_ca.accept), error(no_ca)])
