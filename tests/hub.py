"""A stand-in for the Hugging Face hub: one repository, served from this process."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


@contextlib.contextmanager
def serve(
    repository: str, files: Mapping[str, bytes], log: list | None = None, cut: int | None = None
) -> Iterator[str]:
    """Serve a repository's files and yield the endpoint's URL.

    Args:
        repository: its name; any other is not found.
        files: contents by name.
        log: gets (method, path, range) of each request.
        cut: break the connection after so many bytes of the first file's content that is asked for whole.
    """
    state = {"cut": cut}

    class Handler(BaseHTTPRequestHandler):
        """Answers what `huggingface_hub` asks."""

        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None:
            """Keep quiet."""

        def do_HEAD(self) -> None:
            """Facts of a file."""
            self.answer(body=False)

        def do_GET(self) -> None:
            """The repository's list, or a file's content, from a place on where a range asks for it."""
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            """Either."""
            if log is not None:
                log.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.split("?")[0]
            if path.startswith(f"/api/models/{repository}"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()
                ]
                facts = {"id": repository, "modelId": repository, "sha": COMMIT}
                content = json.dumps(entries if "/tree/" in path else facts).encode()
                return self.send(200, content, {"Content-Type": "application/json"}, body)
            name = path.removeprefix(f"/{repository}/resolve/").partition("/")[2]
            if not path.startswith(f"/{repository}/resolve/") or name not in files:
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            data, headers = (
                files[name],
                {
                    "ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"',
                    "X-Repo-Commit": COMMIT,
                    "Accept-Ranges": "bytes",
                },
            )
            start, status = 0, 200
            if wanted := self.headers.get("Range"):
                start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(status, data[start:], headers, body)

        def send(self, status: int, data: bytes, headers: Mapping[str, str], body: bool) -> None:
            """Headers, then as much of the content as is not cut off."""
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not body:
                return
            if state["cut"] is not None and "/resolve/" in self.path:
                data, state["cut"], self.close_connection = data[: state["cut"]], None, True
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
