"""A proxy on loopback for suites whose messages an agent cannot take as they are. `serve` prints the URL that it listens on."""

import http.client
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def serve(
    upstream: str,
    request: Callable[[bytes], bytes],
    answer: Callable[[bytes], bytes],
    header: Callable[[str], str] = str,
    path: Callable[[str], str] = str,
    more: dict[str, str] = {},
) -> None:
    """Forwards everything, `Host` as well. A body of a request is changed whole, an answer line by line; `more` are headers."""
    there_is = urlsplit(upstream)
    own = ("content-length", "connection", "accept-encoding", *(name.lower() for name in more))

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = request(self.rfile.read(int(self.headers.get("content-length", 0))))
            there = http.client.HTTPConnection(there_is.hostname, there_is.port)
            there.putrequest(self.command, path(self.path), skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in own:
                    there.putheader(name, header(value))
            for name, value in more.items():
                there.putheader(name, value)
            there.putheader("content-length", str(len(body)))
            there.endheaders(body)
            got = there.getresponse()
            self.send_response_only(got.status)
            for name, value in got.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                while line := got.readline():
                    self.wfile.write(answer(line))
                    self.wfile.flush()
            except OSError:
                pass
            finally:
                # The suite has hung up, or has all.
                there.close()

        do_GET = do_POST = do_PUT = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}{there_is.path}", flush=True)
    server.serve_forever()
