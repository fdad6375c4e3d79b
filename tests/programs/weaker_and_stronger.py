"""Sets what is weaker than the policy, and what is stronger."""

from ssa import *

port, host, ca = args


def put(option, value):
    sock = tls(host)
    return [attempt(sock.setsockopt, IPPROTO_TLS, option, value), error(sock)]


def long(seconds):
    return struct.pack("=q", seconds)


came = {
    "weaker": [
        put(option, value)
        for option, value in (
            (TLS_VERSION_MIN, 0x303),
            (TLS_VERSION_MAX, 0x303),
            (TLS_TRUSTED_PEER_CERTIFICATES, text(ca)),
            (TLS_SESSION_REUSE, 1),
            (TLS_SESSION_TTL, long(61)),
            (TLS_ENABLE_CIPHER, text("ECDHE-RSA-AES128-GCM-SHA256")),
            (TLS_TRUSTED_CIPHERS, text("TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")),
            (TLS_ENABLE_CIPHER, text("TLS_CHACHA20_POLY1305_SHA256")),
        )
    ],
    "stronger": [
        put(option, value)[0]
        for option, value in (
            (TLS_VERSION_MIN, 0x304),
            (TLS_VERSION_MAX, 0x304),
            (TLS_SESSION_REUSE, 0),
            (TLS_SESSION_TTL, long(60)),
            (TLS_SESSION_TTL, long(0)),
            (TLS_TRUSTED_CIPHERS, text("TLS_AES_128_GCM_SHA256")),
            (TLS_DISABLE_CIPHER, text("TLS_AES_128_GCM_SHA256")),
        )
    ],
}
sock = tls(host)
came["defaults"] = [
    number(sock, TLS_VERSION_MIN),
    number(sock, TLS_VERSION_MAX),
    number(sock, TLS_SESSION_REUSE),
    struct.unpack("=q", sock.getsockopt(IPPROTO_TLS, TLS_SESSION_TTL, 8))[0],
    string(sock, TLS_TRUSTED_CIPHERS),
]
came["connect"] = connect(sock, "127.0.0.1", port)
came["cipher"] = string(sock, TLS_CHOSEN_CIPHER)
doomed = tls(host)
attempt(doomed.setsockopt, IPPROTO_TLS, TLS_VERSION_MIN, 0x303)
came["refused set changes nothing"] = [
    number(doomed, TLS_VERSION_MIN),
    connect(doomed, "127.0.0.1", port)["result"],
]
out(came)
