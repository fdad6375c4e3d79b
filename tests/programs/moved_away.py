"""A server that a rule serves, and whose process then leaves its cgroup, which is removed.

Arguments: port, the cgroup that it leaves, the cgroup that it goes to.
"""

from ssa import *

port, left, to = args
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(port)))
listener.listen(16)
out("ready")
wait()
with open(to + "/cgroup.procs", "w") as procs:
    procs.write("0")
os.rmdir(left)
out("gone")
listener.settimeout(1)
seen = []
while True:
    try:
        sock, _ = listener.accept()
        sock.settimeout(2)
        data = sock.recv(100)
        seen.append(data.decode("latin-1"))
        sock.sendall(data)
        sock.close()
    except OSError:
        if select.select([sys.stdin], [], [], 0)[0]:
            break
out(seen)
