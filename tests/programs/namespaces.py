"""Connects and listens in network namespaces that come and go."""

from ssa import *

port, host, ca = args


def there(turn):
    assert libc.unshare(CLONE_NEWNET) == 0
    os.system("ip link set lo up")
    # Refused, by the agent's own dial from there: a listener and a connect, so that everything is made.
    assert connect(tls(host, ca), "127.0.0.1", 1)["result"] == "ECONNREFUSED"
    listener = socket.socket()
    attempt(listener.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, text(host))
    listener.listen()


assert connect(tls(host, ca), "127.0.0.1", port)["result"] == "ok"
out("first")
wait()
for turn in range(100 // FEWER):
    pid = os.fork()
    if pid == 0:
        there(turn)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
out("over")
wait()
out(connect(tls(host, ca), "127.0.0.1", port)["result"])
