"""Wants what an agent needs rights for: others' files, a listener, another network namespace."""

import shutil
import tempfile

from ssa import *

port, host, ca, chain, key = args
folder = tempfile.mkdtemp()
os.chmod(folder, 0o700)
own = shutil.copy(ca, folder)
os.chmod(own, 0o600)
sock = tls(host, own)
came = [connect(sock, "127.0.0.1", port)]
pid = os.fork()
if pid == 0:
    os.setgroups([])
    os.setgid(12345)
    os.setuid(12345)
    sock = tls(host, own)
    came = connect(sock, "127.0.0.1", port)
    os._exit(0 if came["result"] == "EPROTO" and "Permission denied" in came["error"] else 1)
came.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
server = listener(chain, key)


def serve():
    conn, _ = server.accept()
    conn.sendall(conn.recv(10))
    conn.close()


threading.Thread(target=serve, daemon=True).start()
client = tls(host, own)
came.append(connect(client, "127.0.0.1", server.getsockname()[1])["result"])
client.sendall(b"x")
came.append(client.recv(1).decode())
assert libc.unshare(CLONE_NEWNET) == 0
os.system("ip link set lo up")
away = tls(host, own)
came.append(connect(away, "127.0.0.1", 1)["result"])
out(came)
os._exit(0)
