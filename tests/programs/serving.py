"""Short-cuts of applications that listen."""

from ssa import *


def got(sock, option, size=256):
    """An option's bytes, or the name of the errno."""
    try:
        return sock.getsockopt(IPPROTO_TLS, option, size)
    except OSError as error:
        return name(error.errno)


def said(sock, option):
    """An option's text, or the name of the errno."""
    value = got(sock, option)
    return value if isinstance(value, str) else value.rstrip(b"\0").decode()


def about(conn):
    """All that a connection tells of its client."""
    chain = got(conn, TLS_PEER_CERTIFICATE_CHAIN, 1024)
    return {
        "sni": said(conn, TLS_HOSTNAME),
        "alpn": said(conn, TLS_ALPN),
        "cipher": said(conn, TLS_CHOSEN_CIPHER),
        "version": number(conn, TLS_VERSION_CONN),
        "resumed": number(conn, TLS_RESUMED_SESSION),
        "identity": said(conn, TLS_PEER_IDENTITY),
        "count": number(conn, TLS_PEER_CERTIFICATE_COUNT),
        "state": state(conn),
        "fingerprint": len(got(conn, TLS_PEER_CERTIFICATE_SHA256, 32)),
        "chain": chain if isinstance(chain, str) else chain.decode()[:10],
        "error": error(conn),
    }
