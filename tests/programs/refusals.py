"""Is refused thousands of times while other processes keep the socket busy."""

from ssa import *

port, host, ca = args
sock = tls(host, ca)
stop = False


def hammer():
    # Each call locks the socket, and the kernel drops an ICMP error that meets a locked one.
    while not stop:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass


pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        hammer()
    pids.append(pid)
results, slow, worst = {}, 0, 0
for turn in range(10000 // FEWER):
    began = time.monotonic()
    result = attempt(sock.connect, ("127.0.0.1", int(port)))
    took = (time.monotonic() - began) * 1e3
    results[result] = results.get(result, 0) + 1
    slow += took > 100
    worst = max(worst, took)
for pid in pids:
    os.kill(pid, signal.SIGTERM)
out([results, slow, worst])
