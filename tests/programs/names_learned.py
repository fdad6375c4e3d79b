"""Resolves names in all the ways that must and must not count, and connects."""

from names import *

dns = Resolver("127.0.5")
said = {"nothing resolved": talk("127.0.0.1")}
dns.resolve("other.ssa.test", "127.0.0.1")
said["not listed"] = talk("127.0.0.1")
dns.resolve("cloud.test", "127.0.0.1")
said["above the pattern"] = talk("127.0.0.1")
dns.resolve("one.ssa.test", "127.0.0.1", by=dns.forger)
said["from another server"] = talk("127.0.0.1")
dns.resolve("one.ssa.test", "127.0.0.1", number=7)
said["another number"] = talk("127.0.0.1")
dns.resolve(
    "other.ssa.test", "127.0.0.1", reply=answer(question("one.ssa.test", dns.number + 1), "127.0.0.1")
)
said["another question"] = talk("127.0.0.1")
sock = dns.resolve("x.ssa.test", "127.0.0.9")
asked_from = ("127.0.0.1", sock.getsockname()[1])
dns.server.sendto(answer(question("one.ssa.test", 1), "127.0.0.1"), asked_from)
sock.recv(512)
said["not asked for"] = talk("127.0.0.1")
dns.resolve("a.cloud.test", "127.0.0.1")
said["by a pattern"] = talk("127.0.0.1")
dns.resolve("ONE.ssa.test", "127.0.0.1")
said["two that fit"] = talk("127.0.0.1")
out(said)
