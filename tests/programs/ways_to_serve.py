"""Serves in all the ways that applications do: forked, in a group, by address, unbound, again, through exec."""

import ssl

from serving import *

chain, key, ca = args


def fetch(port, host="127.0.0.1", name_="server.ssa.test"):
    context = ssl.create_default_context(cafile=ca)
    with context.wrap_socket(socket.create_connection((host, port), 5), server_hostname=name_) as client:
        client.sendall(b"x")
        return client.recv(100).decode()


def answer(sock, word, times=1):
    for _ in range(times):
        conn, _ = sock.accept()
        assert conn.recv(1) == b"x"
        conn.sendall(word.encode())
        conn.close()


def background(*arguments):
    threading.Thread(target=answer, args=arguments, daemon=True).start()


came = {}
# Pre-forked workers on one listener.
sock = listener(chain, key)
workers = []
for index in range(3):
    pid = os.fork()
    if pid == 0:
        answer(sock, "fork", 100)
        os._exit(0)
    workers.append(pid)
came["fork"] = {fetch(sock.getsockname()[1]) for _ in range(12)} == {"fork"}
for pid in workers:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# A group by SO_REUSEPORT.
def reuse(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


first = listener(chain, key, before=reuse)
port = first.getsockname()[1]
second = listener(chain, key, port=port, before=reuse)
background(first, "one", 100)
background(second, "two", 100)
words = [fetch(port) for _ in range(40)]
came["group"] = [set(words) == {"one", "two"}]
# Two services on one port, and a plain one.
one = listener(chain, key, host="127.0.0.2")
port = one.getsockname()[1]
two = listener(chain, key, host="127.0.0.3", port=port)
plain = socket.socket()
plain.bind(("127.0.0.4", port))
plain.listen()
background(one, "2")
background(two, "3")
background(plain, "plain")


def fetch_plain(host):
    with socket.create_connection((host, port), 5) as client:
        client.sendall(b"x")
        return client.recv(100).decode()


came["addresses"] = [fetch(port, "127.0.0.2"), fetch(port, "127.0.0.3"), fetch_plain("127.0.0.4")]
# A plain listener at one address beside a TLS one at every address.
beside = socket.socket()
reuse(beside)
beside.bind(("127.0.0.5", 0))
beside.listen()
port = beside.getsockname()[1]
wide = listener(chain, key, host="0.0.0.0", port=port, before=reuse)
background(beside, "plain")
background(wide, "wide", 2)
time.sleep(0.2)
came["beside"] = [fetch(port, "127.0.0.1"), fetch_plain("127.0.0.5")]
# Without bind, and once more after shutdown.
unbound = socket.socket()
set_credentials(unbound, chain, key)
unbound.listen()
background(unbound, "unbound")
came["unbound"] = fetch(unbound.getsockname()[1])
again = listener(chain, key)
port = again.getsockname()[1]
background(again, "before")
before = fetch(port)
again.shutdown(socket.SHUT_RDWR)
time.sleep(0.1)
states = [state(again), attempt(fetch, port)]
again.listen()
port = again.getsockname()[1]
background(again, "after")
came["relisten"] = [before, states[0], states[1] != "ok", fetch(port)]
# Inherited through exec.
inherited = listener(chain, key)
inherited.set_inheritable(True)
child = os.fork()
if child == 0:
    os.execvp(
        "python3",
        [
            "python3",
            "-c",
            "import socket, sys\n"
            "sock = socket.socket(fileno=int(sys.argv[1]))\n"
            "conn, _ = sock.accept()\n"
            "conn.recv(1)\n"
            "conn.sendall(b'exec')\n"
            "conn.close()\n",
            str(inherited.fileno()),
        ],
    )
came["exec"] = fetch(inherited.getsockname()[1])
os.waitpid(child, 0)
out(came)
