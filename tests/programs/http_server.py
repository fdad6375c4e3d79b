"""Python's own HTTP server, which knows nothing of TLS: tells each client its address.

Arguments: address, port.
"""

import http.server

from ssa import *


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(self.client_address[:2]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


host, port = args[0], int(args[1])
server = http.server.ThreadingHTTPServer((host, port), Handler)
out("ready")
server.serve_forever()
