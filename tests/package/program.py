"""A program that knows sockets only: fetches a line, over TLS by options or as a rule has it, or listens.

fetch HOST PORT NAME CA   prints what came, or the errno and TLS_ERROR
hold HOST PORT NAME CA    connects, then waits for its end, and prints how that came
serve PORT CHAIN KEY      serves TLS for ever
plain HOST PORT           sets no option; prints what came, or the errno
answer HOST PORT          serves for ever, in plaintext: what comes, backwards
"""

import errno
import socket
import sys

TLS, HOSTNAME, TRUSTED, CHAIN, KEY, ERROR = 205, 85, 87, 88, 89, 100
text = lambda value: value.encode() + b"\0"


def connect(host, port, name, ca):
    sock = socket.socket()
    sock.settimeout(30)
    sock.setsockopt(TLS, HOSTNAME, text(name))
    sock.setsockopt(TLS, TRUSTED, text(ca))
    try:
        sock.connect((host, int(port)))
    except OSError as error:
        why = sock.getsockopt(TLS, ERROR, 256).rstrip(b"\0").decode() if error.errno != errno.ENOTCONN else ""
        sys.exit(f"{errno.errorcode[error.errno]}: {why}")
    return sock


def main(what, *args):
    if what == "fetch":
        sock = connect(*args)
        sock.sendall(b"abc\n")
        print("fetched", sock.recv(100).decode().strip(), flush=True)
    elif what == "hold":
        sock = connect(*args)
        sock.settimeout(None)
        print("connected", flush=True)
        try:
            print("ended", sock.recv(1), flush=True)
        except OSError as error:
            print("ended", errno.errorcode[error.errno], flush=True)
    elif what == "serve":
        sock = socket.socket()
        sock.setsockopt(TLS, CHAIN, text(args[1]))
        sock.setsockopt(TLS, KEY, text(args[2]))
        sock.bind(("0.0.0.0", int(args[0])))
        sock.listen()
        while True:
            sock.accept()[0].close()
    elif what == "plain":
        try:
            sock = socket.create_connection((args[0], int(args[1])), timeout=30)
            sock.sendall(b"abc\n")
            print("fetched", sock.recv(100).decode().strip(), flush=True)
        except OSError as error:
            sys.exit(errno.errorcode.get(error.errno, str(error)))
    elif what == "answer":
        listener = socket.create_server((args[0], int(args[1])))
        while True:
            try:
                with listener.accept()[0] as sock:
                    sock.sendall(sock.recv(1000).strip()[::-1] + b"\n")
            except OSError as error:
                print("answer:", error, flush=True)


main(*sys.argv[1:])
