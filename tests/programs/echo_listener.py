"""Listens with a chain and a key, tells its port, and echoes to each client on a thread, until it is killed.

Arguments: chain, key; with a third the files are read, and their texts are set.
"""

from ssa import *

chain, key, *as_text = args
if as_text:
    chain, key = open(chain).read(), open(key).read()
sock = listener(chain, key, backlog=1024)
out(sock.getsockname()[1])
while True:
    threading.Thread(target=echo, args=[sock.accept()[0]], daemon=True).start()
