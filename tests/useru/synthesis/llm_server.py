"""A real HTTP server on loopback that speaks /v1/chat/completions, and misbehaves when a script tells it to."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STEPS = {"answers": "<questions>", "reflection": "<drafts>", "keep": '"keep"', "pool": '"words"'}
"""What only the prompt of a step holds; "topics" and "questions" are told apart below."""


@dataclass
class Request:
    raw: bytes
    headers: dict[str, str]
    time: float
    body: dict[str, Any] = field(init=False)
    prompt: str = field(init=False)
    """The user message."""
    step: str = field(init=False)

    def __post_init__(self) -> None:
        self.body = json.loads(self.raw)
        self.prompt = self.body["messages"][-1]["content"]
        choose = "topics" if re.search(r"exactly \d+ different|恰好\d+个互不相同", self.prompt) else "questions"
        self.step = next((step for step, sign in STEPS.items() if sign in self.prompt), choose)

    @property
    def user(self) -> int:
        """Number of the test world's user, by the stall that only this one visits."""
        return int(re.search(r"Stall (\d+)", self.prompt)[1])  # type: ignore[index]

    def section(self, tag: str) -> list[str]:
        """Keys at the beginning of the lines of a section."""
        text = re.search(rf"<{tag}>\n(.*?)\n</{tag}>", self.prompt, re.S)[1]  # type: ignore[index]
        return re.findall(r"^(\w+): ", text, re.M)


@dataclass
class Response:
    """What goes back; `content` is the LLM's message, `raw` is a body of another kind."""

    content: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    finish: str = "stop"
    usage: tuple[int, int] | None = (100, 50)
    raw: bytes | None = None

    def bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": self.content or "scripted", "type": "x", "code": None}}).encode()
        message = {"role": "assistant", "content": self.content}
        reply: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        reply["choices"] = [{"index": 0, "message": message, "finish_reason": self.finish}]
        if self.usage:
            told, written = self.usage
            reply["usage"] = {"prompt_tokens": told, "completion_tokens": written, "total_tokens": told + written}
        return json.dumps(reply).encode()


Script = Callable[[Request, int], Response | None]
"""Asked with each request and how many came before it; None: behave."""


def good(request: Request) -> str:
    """What a faithful model would write."""
    if request.step == "topics":
        count = int(re.search(r"(?:exactly |恰好)(\d+)", request.prompt)[1])  # type: ignore[index]
        return json.dumps({"topics": request.section("topics")[:count]})
    if request.step == "questions":
        keys = request.section("topics")
        return json.dumps({"questions": [{"topic": key, "query": f"What about {key}?"} for key in keys]})
    if request.step == "answers":
        keys = request.section("questions")
        return json.dumps({"answers": [{"topic": key, "answer": f"Much {key}.", "lines": [1, 2]} for key in keys]})
    keys = request.section("drafts")
    verdicts = [{"topic": key, "reason": "", "verdict": "keep", "answer": "", "lines": []} for key in keys]
    return json.dumps({"reflection": verdicts})


class LLMServer:
    """Use as a context; `requests` is what came in."""

    def __init__(self, script: Script | None = None, delay: float = 0.0) -> None:
        self.script, self.delay = script, delay
        self.requests: list[Request] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/chat/completions", self.path
                outer.answer(self, Request(raw, dict(self.headers), time.monotonic()))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that hang up are part of the play."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        with self._lock:
            before = len(self.requests)
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            response = (self.script(request, before) if self.script else None) or Response(good(request))
            time.sleep(response.delay or self.delay)
        finally:
            with self._lock:
                self.in_flight -= 1
        body = response.bytes()
        handler.send_response(response.status)
        for name, value in {"content-type": "application/json", **response.headers}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def __enter__(self) -> LLMServer:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
