"""Connects again and again while agents replace each other."""

from ssa import *

name_, ca, port = args
count, wrong = 0, []
pem = open(ca).read()
threading.Thread(target=lambda: (wait(), os.write(stop, b"x"))).start()
stopped, stop = os.pipe()
while not select.select([stopped], [], [], 0)[0]:
    try:
        # As a path, and as a text.
        sock = tls(name_, ca if count % 2 else pem)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", int(port)))
        sock.sendall(b"hello")
        if sock.recv(10) != b"hello":
            wrong.append("bytes")
        sock.close()
    except OSError as failed:
        wrong.append([str(failed), error(sock)])
    count += 1
out([count, wrong])
