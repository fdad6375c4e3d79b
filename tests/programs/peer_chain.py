"""Reads the peer's chain: as PEM, and one certificate after the other."""

import ssl

from ssa import *

port, host, ca = args


def ders(sock):
    return [big(sock, TLS_PEER_CERTIFICATE(i), 4096) for i in range(number(sock, TLS_PEER_CERTIFICATE_COUNT))]


def pem(sock, size):
    return big(sock, TLS_PEER_CERTIFICATE_CHAIN, size)


sock = tls(host, ca)
sock.connect(("127.0.0.1", int(port)))
chain = ders(sock)
texts = [ssl.DER_cert_to_PEM_cert(der) for der in chain]
whole = pem(sock, 4096)
came = {
    "count": len(chain),
    "hashes": hashlib.sha256(chain[0]).digest()
    == sock.getsockopt(IPPROTO_TLS, TLS_PEER_CERTIFICATE_SHA256, 32),
    "root": texts[-1] == open(ca).read(),
    "whole": whole == "".join(texts).encode() + b"\0",
}
came["parts"] = []
for count in (1, 2, 3):
    fits = sum(map(len, texts[:count])) + 1
    came["parts"].append(
        [
            len(pem(sock, fits)) == fits,
            len(pem(sock, fits - 1)) < fits if count > 1 else attempt(pem, sock, fits - 1),
        ]
    )
came["one"] = [attempt(big, sock, 132, size) for size in (len(chain[0]), len(chain[0]) - 1, 1)]
came["past"] = [
    attempt(big, sock, option, 4096) for option in (*map(TLS_PEER_CERTIFICATE, (2, 3, 15)), 148, 149)
]
out(came)
wait()
other = tls(host, ca)
other.connect(("127.0.0.1", int(port)))
sock.close()
out(ders(other) == chain)
wait()
# With the agent killed, and with a new one.
out([ders(other) == chain, pem(other, 4096) == whole])
wait()
out([ders(other) == chain, pem(other, 4096) == whole])
wait()
again = tls(host, ca)
again.connect(("127.0.0.1", int(port)))
other.close()
out(ders(again) == chain)
wait()
again.close()
out("closed")
wait()
