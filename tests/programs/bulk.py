"""Sends and receives much at once, and compares digests."""

from ssa import *

port, host, ca = args
sock = tls(host, ca)
sock.connect(("127.0.0.1", int(port)))
BYTES = (64 // (8 if FEWER > 1 else 1)) << 20
ours = hashlib.sha256()


def send():
    block = os.urandom(1 << 20)
    for number in range(BYTES >> 20):
        part = block[number:] + block[:number]
        ours.update(part)
        sock.sendall(part)


sender = threading.Thread(target=send)
sender.start()
pattern = bytes((at * 2654435761 % (1 << 32)) >> 16 & 255 for at in range(1 << 16))
want, theirs, left = hashlib.sha256(pattern * (BYTES >> 16)).hexdigest(), hashlib.sha256(), BYTES
while left:
    part = sock.recv(min(left, 1 << 18))
    theirs.update(part)
    left -= len(part)
sender.join()
said = b""
while part := sock.recv(100):
    said += part
out([theirs.hexdigest() == want, said.hex() == ours.hexdigest()])
