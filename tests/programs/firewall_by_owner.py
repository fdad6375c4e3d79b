"""Connects as several users and groups and from a cgroup below, through an nft ruleset that tells them apart."""

import subprocess

from ssa import *

name_, ca, chain, key, outer, inner = args
assert libc.unshare(CLONE_NEWNET) == 0
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
rules = f"""
table inet t {{ chain o {{ type filter hook output priority 0;
  meta skuid 65534 tcp dport 4433 reject with tcp reset
  socket cgroupv2 level {outer.count("/") + 2} "{outer}/inner" tcp dport 4433 reject with icmpx host-unreachable
  meta skuid 0 meta skgid 4242 tcp dport 4433 reject with icmpx no-route
}}
}}"""
find = "grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || mount -t cgroup2 none /sys/fs/cgroup"
subprocess.run(["unshare", "-m", "sh", "-c", f"({find}) && nft -f -"], input=rules, text=True, check=True)
server = subprocess.Popen(
    ["openssl", "s_server", "-quiet", "-rev", "-accept", "127.0.0.1:4433", "-cert", chain, "-key", key],
    stdin=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
while ":1151 " not in open("/proc/self/net/tcp").read():
    time.sleep(0.05)


def child(change):
    read, write = os.pipe()
    if os.fork() == 0:
        change()
        os.write(write, connect(tls(name_, ca), "127.0.0.1", 4433)["result"].encode())
        os._exit(0)
    os.close(write)
    os.wait()
    return os.read(read, 100).decode()


def nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def group():
    os.setgid(4242)


def moved():
    open(mount + "/cgroup.procs", "w").write("0")


mount = (
    next(line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2") + f"/{outer}/inner"
)
try:
    out([child(lambda: None), child(nobody), child(moved), child(group)])
finally:
    server.kill()
