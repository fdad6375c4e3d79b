"""Talks from cgroups that it has just made below its own. Arguments: port, cgroup."""

from talk import *

_port, cgroup = args


def move(name):
    here = os.path.join(cgroup, name)
    os.makedirs(here, exist_ok=True)
    with open(here + "/cgroup.procs", "w") as procs:
        procs.write("0")


def leave(name):
    with open(cgroup + "/cgroup.procs", "w") as procs:
        procs.write("0")
    os.rmdir(os.path.join(cgroup, name))


move("one")
out(talk())
leave("one")
wait()
move("two")
out([talk(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(("127.0.0.1", 9))])
leave("two")
