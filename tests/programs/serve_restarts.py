"""Accepts clients through restarts of the agent, and notes what each has said."""

from serving import *

chain, key, port = args
sock = listener(chain, key, port=int(port))
out("listens")


def serve():
    while True:
        conn, peer = sock.accept()
        data = b""
        try:
            data = conn.recv(100)
        except OSError:
            pass
        seen.append([state(conn), said(conn, TLS_CHOSEN_CIPHER), data.decode(errors="replace")])
        try:
            conn.sendall(b"ok")
        except OSError:
            pass
        conn.close()


seen = []
threading.Thread(target=serve, daemon=True).start()
wait()
out(seen)
os._exit(0)
