"""A webhook on this machine, as a client of A2A has one."""

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook:
    """Takes whatever it is told; `url` is where."""

    def __init__(self):
        told = self._told = queue.Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                # Before the answer: what is told next must not overtake it.
                told.put((self.headers, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/hook"

    def next(self):
        """Headers and body of what it is told next; raises queue.Empty when that is nothing."""
        return self._told.get(timeout=60)
