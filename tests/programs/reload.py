"""Keeps a connection, and makes others of the same context, while the policy is replaced."""

from ssa import *

port, host, ca = args
owner = tls(host, ca)
context = owner.getsockopt(IPPROTO_TLS, TLS_CONTEXT, 8)


def member():
    sock = tls(None)
    sock.setsockopt(IPPROTO_TLS, TLS_CONTEXT, context)
    result = attempt(sock.connect, ("127.0.0.1", int(port)))
    if result != "ok":
        return [result, error(sock)], sock
    sock.send(b"x")
    sock.recv(1)
    return [result, number(sock, TLS_RESUMED_SESSION), number(sock, TLS_VERSION_CONN)], sock


def tried():
    return attempt(tls(host, ca).setsockopt, IPPROTO_TLS, TLS_VERSION_MIN, 0x303)


came, first = member()
out([came, member()[0], tried()])
wait()


def alive():
    first.send(b"still")
    return first.recv(5).decode()


out([alive(), member()[0], member()[0], tried()])
wait()
out([alive(), member()[0], tried()])
wait()
out([alive(), member()[0], tried()])
