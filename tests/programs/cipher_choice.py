"""Connects with one suite left on the list, and with lists in an order."""

from ciphers import *

port, host, ca = args
came = {}
probe = tls(host, ca)
for only in [
    name_
    for name_ in listed(probe)
    if name_
    in (
        "TLS_AES_256_GCM_SHA384",
        "TLS_AES_128_GCM_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    )
]:
    sock = tls(host, ca)
    for other in listed(sock):
        if other != only:
            assert put(sock, DISABLE, other) == "ok"
    came[only] = [
        connect(sock, "127.0.0.1", port)["result"],
        string(sock, TLS_CHOSEN_CIPHER),
        number(sock, TLS_VERSION_CONN),
    ]
# The order is the application's: TLS 1.2's are asked for first, TLS 1.3 still wins.
sock = tls(host, ca)
put(sock, LIST, "ECDHE-ECDSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384")
came["ordered"] = [connect(sock, "127.0.0.1", port)["result"], string(sock, TLS_CHOSEN_CIPHER)]
none = tls(host, ca)
for other in listed(none):
    put(none, DISABLE, other)
came["none"] = connect(none, "127.0.0.1", port)
rsa = tls(host, ca)
put(rsa, LIST, "ECDHE-RSA-AES128-GCM-SHA256")
came["other key"] = connect(rsa, "127.0.0.1", port)
mixed = tls(host, ca)
put(mixed, LIST, "ECDHE-ECDSA-AES128-GCM-SHA256")
mixed.setsockopt(IPPROTO_TLS, TLS_VERSION_MIN, 0x0304)
came["no version"] = connect(mixed, "127.0.0.1", port)
out(came)
