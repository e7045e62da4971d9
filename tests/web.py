"""A server on this machine that gives what a test put into it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def served(files: dict[str, bytes], endless: str | None = None) -> Iterator[str]:
    """The address of a server.

    Args:
        files: contents by path; ``moved:`` and an address is a redirect.
        endless: a path whose file has no length and no end.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.partition("?")[0])
            if self.path == endless:
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):  # the client leaves
                    while True:
                        self.wfile.write(bytes(1 << 16))
            elif content is None:
                self.send_error(404)
            elif content.startswith(b"moved:"):
                self.send_response(302)
                self.send_header("Location", content.removeprefix(b"moved:").decode())
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
