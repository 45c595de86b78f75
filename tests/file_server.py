"""A server on the loopback address that hands out one file well or badly, as the path asks for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves `content` at /<manner>/<name>; `asked` lists the paths in order.

    Manners: whole, no_length, cut (a third of what Content-Length says), slow (a third, then nothing), drip (a byte now and
    then), silent (no answer), page (a web page with status 200), redirect (to whole), and a status such as 404.
    """

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.asked = content, []
        self.closing = threading.Event()

    def address(self, manner: str, name: str = "weights.pth") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{manner}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        manner, content, closing = self.path.split("/")[-2], self.server.content, self.server.closing
        if manner == "silent":
            closing.wait()
        elif manner.isdigit():
            self.send_error(int(manner))
        elif manner == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path.replace("/redirect/", "/whole/"))
            self.end_headers()
        else:
            content = b"<html>log in</html>" if manner == "page" else content
            self.send_response(200)
            if manner != "no_length":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if manner in ("whole", "page", "no_length") else content[:len(content) // 3])
            while manner == "drip" and not closing.wait(0.05):
                self.wfile.write(b"x")
            if manner == "slow":
                closing.wait()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            return  # the client hung up, as it should on a slow server

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serve(content: bytes) -> Iterator[FileServer]:
    """A server that runs within the block."""
    server = FileServer(content)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
