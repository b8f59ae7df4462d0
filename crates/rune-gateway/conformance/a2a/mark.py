"""A proxy that tells the agent the ids of messages: the kit says by them what it wants of the agent, which is told only what a message says.

The id is put before the text, as `<ID> text`, and taken out of the texts of answers again. The kit adds a slash to the URL of a JSON-RPC
interface, which is taken off again. Nothing else is changed.
Usage: mark.py UPSTREAM. Prints the URL that it listens on.
"""

import http.client
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

upstream = urlsplit(sys.argv[1])
MARK = re.compile(rb"<[\w.-]+> ")


def marked(body: bytes) -> bytes:
    try:
        call = json.loads(body)
        message = call["params"]["message"] if "params" in call else call["message"]
        part = next(part for part in message["parts"] if isinstance(part.get("text"), str))
        part["text"] = f"<{message['messageId']}> {part['text']}"
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        # Not a message; what is wrong with it is for the gateway to say.
        return body
    return json.dumps(call).encode()


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = marked(self.rfile.read(int(self.headers.get("content-length", 0))))
        there = http.client.HTTPConnection(upstream.hostname, upstream.port)
        # With the client's `Host`, so that cards name this proxy.
        there.putrequest(self.command, self.path.rstrip("/"), skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("content-length", "connection", "accept-encoding"):
                there.putheader(name, value)
        there.putheader("content-length", str(len(body)))
        there.endheaders(body)
        answer = there.getresponse()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while line := answer.readline():
                self.wfile.write(MARK.sub(b"", line))
                self.wfile.flush()
        except OSError:
            pass
        finally:
            # The kit has hung up, or has all.
            there.close()

    do_GET = do_POST = do_PUT = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
server.daemon_threads = True
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
