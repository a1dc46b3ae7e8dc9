"""A real HTTP server, in a thread, that answers as the test prescribes."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from metarm import RewardClient


@dataclass
class Answer:
    """`body` is sent as it is if it is bytes, else as JSON. Status 0: the connection closes unanswered."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    at: float
    port: int  # of the client's connection


LOST = Answer(0)


class ScriptedHttpServer(ThreadingHTTPServer):
    """A server that sends its answers in order, repeats the last one, and records the requests. A function
    instead of answers makes each from its request."""

    daemon_threads = True

    def __init__(self, answers: list[Answer] | Callable[[Received], Answer], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answers = answers
        self.received: list[Received] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, received: Received) -> Answer:
        place = len(self.received)
        self.received.append(received)
        if callable(self.answers):
            return self.answers(received)
        return self.answers[min(place, len(self.answers) - 1)]


class Handler(BaseHTTPRequestHandler):
    server: ScriptedHttpServer

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        headers, port = dict(self.headers), self.client_address[1]
        answer = self.server.answer(Received(self.command, self.path, headers, body, time.monotonic(), port))
        if answer.status == 0:
            self.close_connection = True
            return
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        with contextlib.suppress(ConnectionError):  # the client does not read all of it
            self.send_response(answer.status)
            for name, value in {"content-length": str(len(data)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 (the names http.server looks for)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name it has in http.server)
        pass


class KeepsAlive(Handler):
    protocol_version = "HTTP/1.1"


@contextmanager
def answering(
    *answers: Answer, by: Callable[[Received], Answer] | None = None, port: int = 0
) -> Iterator[ScriptedHttpServer]:
    """A server that sends these answers in order, or those that `by` makes."""
    with ScriptedHttpServer(by or list(answers), port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def error(status: int, code: str, message: str, details: Any = None, **headers: str) -> Answer:
    body = {"code": code, "message": message} | ({"details": details} if details else {})
    return Answer(status, {"error": body}, {name.replace("_", "-"): value for name, value in headers.items()})


def job(status: str) -> Answer:
    return Answer(200, {"job": "job-1", "status": status, "progress": {"step": 1, "steps": 2}})


def api(received: Received) -> Answer:
    """What the server answers to a valid call. It serves v000009, and every label names v000002."""
    _, first, *names = received.path.split("/")
    body = received.body or {}
    version = body.get("version") or ("v000002" if "label" in body else "v000009")
    lease = {"lease": f"of-{version}", "version": version, "expires": 100.0}
    label = {"label": "stable", "version": "v000002"}
    match received.method, first, names:
        case "POST", "score", []:
            named = version if version.startswith("v") else "v000002"
            groups = [
                {
                    "id": group.get("id", str(place)),
                    "version": named,
                    "scores": [0.5] * len(group["responses"]),
                    "tokens": [4] * len(group["responses"]),
                    "truncated": [False] * len(group["responses"]),
                }
                for place, group in enumerate(body["groups"])
            ]
            return Answer(200, {"version": named, "groups": groups})
        case "POST", "leases", []:
            return Answer(201, lease)
        case "GET", "leases", []:
            return Answer(200, [lease])
        case "POST", "leases", [id_, "renew"]:
            return Answer(200, {"lease": id_, "version": "v000002", "expires": 200.0})
        case "DELETE", "leases", [id_]:
            return Answer(200, {"lease": id_})
        case "GET", "labels", []:
            return Answer(200, [label])
        case "PUT", "labels", [name]:
            return Answer(200, {"label": name, "version": version})
        case "DELETE", "labels", [name]:
            return Answer(200, {"label": name})
        case "GET", "ready", []:
            return Answer(200, {"status": "ready", "version": "v000009", "degraded": []})
        case "GET", "versions", []:
            entry = {"name": "v000009", "status": "published"}
            return Answer(200, {"current": "v000009", "serving": "v000009", "versions": [entry]})
        case "GET", "drift", []:
            return Answer(200, {"versions": [], "watch": {"watching": None, "ended": []}})
        case "POST", "versions", [name, "activate"]:
            return Answer(200, {"current": name, "serving": name})
        case "POST", "retrain", []:
            return Answer(202, {"job": "job-1", "status": "queued", "status_url": "/retrain/job-1"})
        case _, "retrain", [_]:
            return job("published")
        case _:
            return error(404, "not_found", "no such route")


class Clock:
    """A clock whose `sleep` advances the time without waiting."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


# calls of a client, by name: those that may be sent twice, and those that must not
GROUPS: list[dict[str, Any]] = [{"prompt": "One?", "responses": ["Yes.", "No."]}]
IDEMPOTENT: dict[str, Callable[[RewardClient], object]] = {
    "score": lambda client: client.score(GROUPS),
    "leases": lambda client: client.leases(),
    "renew": lambda client: client.renew("lease-1"),
    "release": lambda client: client.release("lease-1"),
    "labels": lambda client: client.labels(),
    "set_label": lambda client: client.set_label("stable", "v000002"),
    "remove_label": lambda client: client.remove_label("stable"),
    "ready": lambda client: client.ready(),
    "versions": lambda client: client.versions(),
    "drift": lambda client: client.drift(),
    "job": lambda client: client.job("job-1"),
    "cancel": lambda client: client.cancel("job-1"),
}
ONCE: dict[str, Callable[[RewardClient], object]] = {
    "lease": lambda client: client.lease(version="v000002"),
    "activate": lambda client: client.activate("v000002"),
    "retrain": lambda client: client.retrain(),
}
ALL = {**IDEMPOTENT, **ONCE}
