"""A proxy that gives agents the names that the suite calls its fixtures by, which have underscores that names of agents cannot have.

Usage: rename.py UPSTREAM. Prints the URL that it listens on. Nothing else of a message is changed.
"""

import http.client
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FIXTURES = ("test_simple_text", "test_error_handling", "test_tool_with_progress")
upstream = urlsplit(sys.argv[1])


def renamed(text: bytes, to_agents: bool) -> bytes:
    for fixture in FIXTURES:
        names = fixture.encode(), fixture.replace("_", "-").encode()
        text = text.replace(*names) if to_agents else text.replace(*reversed(names))
    return text


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = renamed(self.rfile.read(int(self.headers.get("content-length", 0))), True)
        there = http.client.HTTPConnection(upstream.hostname, upstream.port)
        there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("content-length", "connection", "accept-encoding"):
                there.putheader(name, renamed(value.encode(), True))
        there.putheader("content-length", str(len(body)))
        there.endheaders(body)
        answer = there.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while line := answer.readline():
                self.wfile.write(renamed(line, False))
                self.wfile.flush()
        except OSError:
            pass
        finally:
            # The suite has hung up, or has all.
            there.close()

    do_GET = do_POST = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
server.daemon_threads = True
print(f"http://127.0.0.1:{server.server_port}{upstream.path}", flush=True)
server.serve_forever()
