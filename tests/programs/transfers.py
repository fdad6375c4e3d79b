"""Transfers keyed bytes both ways, one transfer for each line that the test says: `[port, bytes, pause in seconds]`.

Arguments: host name, CA file, canary.
"""

import random, select

from ssa import *

name_, ca, canary = args
PERIOD = 65521
pad = bytearray(random.Random(name_).randbytes(PERIOD))
for at in range(100, PERIOD - 100, 4000):
    pad[at : at + len(canary)] = canary.encode()
pad = bytes(pad) * 2


def transfer(port, total, pause):
    try:
        sock = tls(name_, ca)
    except OSError as failed:
        return {"end": name(failed.errno), "connected": False}
    come = attempt(sock.connect, ("127.0.0.1", port))
    if come != "ok":
        return {"end": come, "connected": False, "error": error(sock)}
    said = {"connected": True, "got": 0}
    try:
        sock.sendall(struct.pack("<Q", total))
        print(json.dumps("connected"), flush=True)
        sock.setblocking(False)
        sent = got = 0
        while True:
            readable, writable, _ = select.select([sock], [sock] if sent < total else [], [], 60)
            if not readable and not writable:
                said["end"] = "stuck"
                break
            if readable:
                part = sock.recv(PERIOD)
                if not part:
                    said["end"] = "complete" if got == total else "false end of file"
                    break
                at = got % PERIOD
                if part != pad[at : at + len(part)]:
                    said["end"] = "wrong bytes"
                    break
                got += len(part)
                said["got"] = got
            if writable:
                at = sent % PERIOD
                sent += sock.send(pad[at : at + min(PERIOD, total - sent)])
                if sent == total:
                    sock.shutdown(socket.SHUT_WR)
                if pause:
                    time.sleep(pause)
    except OSError as failed:
        said["end"] = name(failed.errno)
    said["error"] = error(sock)
    sock.close()
    return said


while True:
    port, total, pause = json.loads(sys.stdin.readline())
    out(transfer(port, total, pause))
