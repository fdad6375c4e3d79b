"""Speaks as much of the Kubernetes API as watching pods takes (GET /api/v1/pods, with and without watch=true), from
objects that the test brings on standard input, one command a line:

["put", {metadata}]    an object is there, or has changed
["delete", uid]
["gone"]               all watches end with 410 Gone, and older versions can't be watched any more
["drop"]               all connections are closed

Prints its port first, and then each request that it gets.
"""

import json
import queue
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
pods, watches, version, oldest, history = {}, [], 100, 0, []


def kind(name, **more):
    return {"kind": name, "apiVersion": "meta.k8s.io/v1", **more}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        print(
            json.dumps([url.path, asked.get("fieldSelector"), asked.get("watch"), self.headers["Accept"]]),
            flush=True,
        )
        if url.path != "/api/v1/pods" or "PartialObjectMetadata" not in self.headers["Accept"]:
            return self.send_error(404)
        if asked.get("watch") != "true":
            with lock:
                items = [kind("PartialObjectMetadata", metadata=pod) for pod in pods.values()]
                answer = kind(
                    "PartialObjectMetadataList", metadata={"resourceVersion": str(version)}, items=items
                )
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return self.wfile.write(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = queue.Queue()
        with lock:
            since = int(asked["resourceVersion"])
            for event in [GONE] if since < oldest else [event for at, event in history if at > since]:
                events.put(event)
            watches.append(events)
        while (event := events.get()) is not None:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
            if event is GONE:
                self.wfile.write(b"0\r\n\r\n")
                break
        with lock:
            watches.remove(events)
        if event is None:
            self.close_connection = True


GONE = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old",
        "reason": "Expired",
        "code": 410,
    },
}

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
for line in sys.stdin:
    what, *rest = json.loads(line)
    with lock:
        version += 1
        event = None
        if what == "put":
            known = rest[0]["uid"] in pods
            pods[rest[0]["uid"]] = dict(rest[0], resourceVersion=str(version))
            event = {
                "type": "MODIFIED" if known else "ADDED",
                "object": kind("PartialObjectMetadata", metadata=pods[rest[0]["uid"]]),
            }
        elif what == "delete":
            pod = dict(pods.pop(rest[0]), resourceVersion=str(version))
            event = {"type": "DELETED", "object": kind("PartialObjectMetadata", metadata=pod)}
        elif what == "gone":
            oldest, event = version, GONE
        if what in ("put", "delete"):
            history.append((version, event))
        for watch in watches:
            watch.put(event)
