"""Tries what profiles forbid: by executable, and by user."""

from ssa import *

port, host, ca = args


def tries():
    sock = tls(host, ca)
    came = [
        attempt(sock.setsockopt, IPPROTO_TLS, TLS_VERSION_MIN, 0x303),
        attempt(sock.setsockopt, IPPROTO_TLS, TLS_SESSION_REUSE, 1),
    ]
    return came + [connect(sock, "127.0.0.1", port)]


came = {"plain": tries()}
plain = tls(host, ca)
came["cipher"] = [connect(plain, "127.0.0.1", port)["result"], string(plain, TLS_CHOSEN_CIPHER)]
asked = tls(host, ca)
asked.setsockopt(IPPROTO_TLS, TLS_ENABLE_CIPHER, text("TLS_AES_256_GCM_SHA384"))
came["asked"] = connect(asked, "127.0.0.1", port)
pid = os.fork()
if pid == 0:
    os.setuid(12345)
    came["user"] = tries()
    out(came)
    os._exit(0)
os.waitpid(pid, 0)
