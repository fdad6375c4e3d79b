"""Sets and gets every number from 80 to 160 in each phase of a socket."""

from raw import *

port, silent, host, ca, chain, key = args
closed = socket.socket()
closed.bind(("127.0.0.1", 0))
dead = closed.getsockname()
closed.close()


def connected():
    sock = tls(host, ca)
    sock.connect(("127.0.0.1", int(port)))
    return sock


def failed():
    sock = tls(host, ca)
    attempt(sock.connect, dead)
    return sock


def listening():
    sock = tls(host)
    set_credentials(sock, chain, key)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def connecting():
    sock = tls(host, ca)
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", int(silent)))
    return sock


def peer_closed():
    sock = connected()
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b""
    return sock


def adopted():
    owner = tls(host, ca)
    keep.append(owner)
    sock = tls(None)
    sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8))
    return sock


keep = []
values = {
    TLS_HOSTNAME: b"peer.ssa.test\0",
    TLS_HOSTNAME_2: b"peer.ssa.test\0",
    TLS_TRUSTED_PEER_CERTIFICATES: text(ca),
    TLS_CERTIFICATE_CHAIN: text(ca),
    TLS_PRIVATE_KEY: text(ca),
    TLS_ALPN: b"h2,http/1.1\0",
    TLS_SESSION_TTL: b"\1" + b"\0" * 7,
    TLS_DISABLE_CIPHER: b"TLS_AES_128_GCM_SHA256\0",
    TLS_TRUSTED_CIPHERS: b"TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES128-GCM-SHA256\0",
    TLS_ENABLE_CIPHER: b"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\0",
    TLS_VERSION_MIN: b"\x04\x03\0\0",
    TLS_VERSION_MAX: b"\x04\x03\0\0",
}
ints = (
    TLS_REQUEST_PEER_AUTH,
    TLS_REVOCATION_CHECKS,
    TLS_OCSP_STAPLED_CHECKS,
    TLS_OCSP_CHECKS,
    TLS_CRL_CHECKS,
    TLS_CACHED_REV_CHECKS,
    TLS_SESSION_REUSE,
    TLS_RESUMED_SESSION,
    TLS_VERSION_MIN,
    TLS_VERSION_MAX,
    TLS_VERSION_CONN,
    TLS_SERVER_OCSP_STAPLING,
    TLS_STATE,
    TLS_PEER_CERTIFICATE_COUNT,
)
sizes = {option: 4 for option in ints} | {TLS_PEER_CERTIFICATE(i): 4096 for i in range(16)}
sizes |= {
    TLS_SESSION_TTL: 8,
    TLS_ID: 8,
    TLS_CONTEXT: 8,
    TLS_PEER_CERTIFICATE_CHAIN: 4096,
    TLS_TRUSTED_CIPHERS: 4096,
    TLS_PEER_CERTIFICATE_SHA256: 32,
}
came = {}
for phase, make in {
    "fresh": lambda: tls(host, ca),
    "failed": failed,
    "connected": connected,
    "listening": listening,
    "adopted": adopted,
    "connecting": connecting,
    "peer closed": peer_closed,
}.items():
    rows = {}
    reader = make()
    for option in range(80, 161):
        writer = make() if phase in ("fresh", "failed", "adopted") or not rows else writer
        value = values.get(option, b"\1\0\0\0")
        if option == TLS_CONTEXT:
            other = tls(host, ca)
            keep.append(other)
            value = other.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)
        rows[option] = [
            raw_set(writer, option, value, len(value)),
            raw_get(reader, option, sizes.get(option, 300))[0],
        ]
        if phase in ("fresh", "failed"):
            writer.close()
    came[phase] = rows
out(came)
