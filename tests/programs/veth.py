"""This process in a network namespace of its own, and another namespace at the other end of a cable.

d0 is here and d1 is there. `there` begins commands that run at the other end; whoever imports this ends `other`.
"""

import subprocess

from ssa import *


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def add_address(device, address, *where):
    """Adds an address with its prefix length; an IPv6 one is there at once."""
    run(*where, "ip", "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))


def connect_ends(here_addresses, there_addresses):
    """Gives both ends their addresses, and takes them up."""
    for where, device, addresses in ([], "d0", here_addresses), (there, "d1", there_addresses):
        for address in addresses:
            add_address(device, address, *where)
        run(*where, "ip", "link", "set", device, "up")


assert libc.unshare(CLONE_NEWNET) == 0
other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
    time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
