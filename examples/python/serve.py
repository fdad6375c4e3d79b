"""An HTTP server of the standard library's own parts, over TLS by two setsockopt calls.

usage: serve.py PORT CHAIN-FILE KEY-FILE
"""

import http.server
import socket
import sys

IPPROTO_TLS, TLS_CERTIFICATE_CHAIN, TLS_PRIVATE_KEY = 205, 88, 89


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(IPPROTO_TLS, TLS_CERTIFICATE_CHAIN, sys.argv[2].encode() + b"\0")
        self.socket.setsockopt(IPPROTO_TLS, TLS_PRIVATE_KEY, sys.argv[3].encode() + b"\0")
        super().server_bind()


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"hello {self.client_address[0]}\n".encode())


Server(("::", int(sys.argv[1])), Hello).serve_forever()
