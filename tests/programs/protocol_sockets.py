"""Makes sockets by socket(..., IPPROTO_TLS).

From threads, without descriptors, in other cgroups, and without an agent.
"""

from ssa import *

port, plain_port, host, ca = args


def new(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_STREAM, IPPROTO_TLS)


came = {}
# No set at all: gets answer, and nothing connects.
sock = new()
came["fresh"] = [
    state(sock),
    id_of(sock) != 0,
    error(sock),
    big(sock, TLS_TRUSTED_CIPHERS, 4096) != b"",
    number(sock, TLS_VERSION_MIN) > 0,
]
came["nameless"] = connect(sock, "127.0.0.1", plain_port)["result"]
came["context"] = id_of(new(), TLS_CONTEXT) != 0


# SO_PROTOCOL with buffers of other lengths, as the kernel has it.
def protocol(sock, size):
    return list(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL, size))


came["protocol"] = [protocol(new(), size) for size in (1, 2, 4, 8)]
# Threads that make both kinds.
mixed = []


def both():
    for turn in range(200 // FEWER):
        kinds = [turn % 2, turn % 3 % 2]
        socks = [new() if kind else socket.socket() for kind in kinds]
        mixed.append(
            [s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) for s in socks]
            == [205 if kind else 6 for kind in kinds]
        )
        for s in socks:
            s.close()


threads = [threading.Thread(target=both) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
came["mixed"] = [len(mixed) == 8 * (200 // FEWER), all(mixed)]
# Sockets that are made and have no descriptor, and calls that fail in between.
import resource

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
came["no descriptor"] = [name(ctypes.get_errno()) for _ in range(50) if libc.socket(2, 1, 205) < 0][:1]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
came["bad flag"] = [libc.socket(2, 1 | 0x100, 205), socket.socket().getsockopt(1, 38)]
# A cgroup below, and one beside.
mine = open("/proc/self/cgroup").read().split("0::")[1].split("\n")[0]
root = next(line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2")


def within(path):
    pid = os.fork()
    if pid == 0:
        open(path + "/cgroup.procs", "w").write("0")
        os._exit(attempt(new) == "ok")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


os.mkdir(root + mine + "/below")
os.mkdir(root + mine + "-beside")
came["cgroups"] = [within(root + mine + "/below"), within(root + mine + "-beside")]
os.rmdir(root + mine + "/below")
os.rmdir(root + mine + "-beside")
# Over IPv6, and kept while the agent is away.
kept = new()
kept.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, text(host))
kept.setsockopt(IPPROTO_TLS, TLS_TRUSTED_PEER_CERTIFICATES, text(ca))
out(came)
wait()
away = new()
came = [
    attempt(away.setsockopt, IPPROTO_TLS, TLS_HOSTNAME, text(host)),
    attempt(away.connect, ("127.0.0.1", int(plain_port))),
]
out(came + [attempt(kept.connect, ("127.0.0.1", int(plain_port)))])
wait()
came = [connect(kept, "127.0.0.1", port)["result"], attempt(new), number(kept, TLS_VERSION_CONN)]
out(came)
