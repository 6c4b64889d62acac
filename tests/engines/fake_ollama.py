"""An Ollama for the tests, as far as loading and unloading goes: `fake_ollama.py serve`.

Its models are `tiny` (loads) and `huge` (does not fit). What it was asked is found at
`/asked`; its environment at `/environment`.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("tiny:latest", "huge:latest")
TOO_BIG = "model requires more system memory (48.2 GiB) than is available (7.5 GiB)"
loaded: set[str] = set()
asked: list[Any] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(os.environ.get("OLLAMA_CONTEXT_LENGTH", "4096"))
        answers: dict[str, Any] = {
            "/api/version": {"version": "0.12.6"},
            "/api/tags": {"models": [{"name": m, "model": m} for m in MODELS]},
            "/api/ps": {"models": [{"name": m, "context_length": length} for m in loaded]},
            "/v1/models": {"object": "list", "data": [{"id": m} for m in MODELS]},
            "/asked": asked,
            "/environment": {k: v for k, v in os.environ.items() if k.startswith("OLLAMA_")},
        }
        found = self.path in answers
        self.answer(200 if found else 404, answers.get(self.path, "404 page not found"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked.append(body)
        name = body["model"] if ":" in body["model"] else f"{body['model']}:latest"
        line = {"model": body["model"], "created_at": "2026-01-01T00:00:00Z", "response": ""}
        if name not in MODELS:
            self.answer(404, {"error": f"model '{body['model']}' not found"})
        elif name == "huge:latest":
            self.answer(500, {"error": TOO_BIG})
        elif body.get("keep_alive") == 0:
            loaded.discard(name)
            self.answer(200, {**line, "done": True, "done_reason": "unload"})
        else:
            loaded.add(name)
            self.answer(
                200, {**line, "done": True, "done_reason": "load", "load_duration": 2_000_000_000}
            )

    def answer(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


def main() -> None:
    if sys.argv[1] == "--version":
        print("Warning: could not connect to a running Ollama instance")
        print("Warning: client version is 0.12.6")
        return
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    if os.environ.get("FAKE_OLLAMA") == "broken":
        print("Error: could not create directory mkdir /models: permission denied", flush=True)
        sys.exit(1)
    server = ThreadingHTTPServer((host, int(port)), Handler)
    print(f"Listening on {host}:{port} (version 0.12.6) {time.time()}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
