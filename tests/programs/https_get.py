"""Gets `/` over HTTPS by Python's own ssl module, and prints how the answer begins.

Arguments: host, port, the name that the certificate must have, CA file.
"""

import socket
import ssl
import sys

host, port, name, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
with context.wrap_socket(socket.create_connection((host, int(port)), 5), server_hostname=name) as sock:
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    print(sock.recv(100))
