"""Sets and reads which revocation checks are made."""

from ssa import *

host, ca, port = args


def of(*options):
    sock = tls(host, ca)
    came = [attempt(sock.setsockopt, IPPROTO_TLS, option, value) for option, value in options]
    return came + [connect(sock, "127.0.0.1", port)["result"]]


sock = socket.socket()
sock.setsockopt(IPPROTO_TLS, TLS_SESSION_REUSE, 1)
out(
    [
        [number(sock, option) for option in range(TLS_REVOCATION_CHECKS, TLS_CACHED_REV_CHECKS + 1)],
        of(),
        of((TLS_REVOCATION_CHECKS, 0)),
        of((TLS_REVOCATION_CHECKS, 1)),
        of(
            (TLS_OCSP_STAPLED_CHECKS, 1),
            (TLS_OCSP_CHECKS, 1),
            (TLS_CRL_CHECKS, 1),
            (TLS_CACHED_REV_CHECKS, 1),
        ),
        of(
            (TLS_OCSP_STAPLED_CHECKS, 0),
            (TLS_OCSP_CHECKS, 0),
            (TLS_CRL_CHECKS, 0),
            (TLS_CACHED_REV_CHECKS, 0),
        ),
        of((TLS_REVOCATION_CHECKS, 2)),
    ]
)
