"""The door over HTTP: what is checked before a body is read, how it is read, and how refusals are answered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from service.http import bodies
from service.http.json_text import SMALL
from service.settings import ServiceSettings
from tests.processes import RedisProcess, Served, service_here, wait_until
from tests.store import publish
from tests.tiny import Kind

KEY, ADMIN = {"Authorization": "Bearer score-key"}, {"Authorization": "Bearer admin-key"}
BODY = {"groups": [{"prompt": "What is it?", "responses": ["forty two"]}]}
LIMIT = 2_000_000
TIMEOUT_S = 0.5


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[Kind], Path], shared_redis: RedisProcess
) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("data")
    publish(data_dir, checkpoint("bert"))
    settings = {
        "METARM_SCORE_KEYS": '["score-key"]',
        "METARM_ADMIN_KEYS": '["admin-key"]',
        "METARM_MAX_BODY_BYTES": str(LIMIT),
        "METARM_BODY_TIMEOUT_S": str(TIMEOUT_S),
        "METARM_MAX_TEXT_CHARS": "500",
        "METARM_MAX_REQUEST_CHARS": "2000",
        "METARM_MAX_JSON_VALUES": "1000",
    }
    with service_here(data_dir, shared_redis.url, **settings) as process:
        process.wait_ready()
        yield process


def answer_to(server: Served, head: str, body: bytes = b"") -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and error of the answer to a request that sends these bytes and then waits until the
    server closes the connection, or for the rest of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30.0) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        answer = connection.makefile("rb")
        status = int(answer.readline().split()[1])
        lines = iter(lambda: answer.readline().decode().strip(), "")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        error = json.loads(answer.read(int(headers["content-length"])))["error"]
        if headers.get("connection") == "close":
            with contextlib.suppress(ConnectionResetError):  # some of the body was not read
                assert answer.read() == b""
        return status, headers, error


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("POST /score", "", 401),
        ("POST /score", "Authorization: Bearer wrong", 401),
        ("POST /retrain", "Authorization: Bearer score-key", 403),
        ("POST /versions/v000001/activate", "Authorization: Bearer score-key", 403),
        ("POST /leases/lease-1/renew", "", 401),
        ("PUT /labels/stable", "Authorization: Bearer score-key", 403),
        ("POST /nowhere", "", 404),
        ("POST /versions", "", 405),
        ("POST /score", "Authorization: Bearer score-key\nContent-Type: text/plain", 415),
        ("POST /score", "Authorization: Bearer score-key\nContent-Encoding: br", 415),
        ("GET /versions", "", 401),
    ],
)
def test_a_request_is_refused_before_its_body_arrives(
    server: Served, request_line: str, headers: str, status: int
) -> None:
    head = "\n".join([f"{request_line} HTTP/1.1", "Host: x", "Content-Length: 1000", *headers.splitlines()])
    assert answer_to(server, head)[0] == status


@pytest.mark.parametrize("request_line", ["POST /score", "GET /health", "DELETE /leases/lease-1"])
def test_a_body_that_is_announced_as_too_long_is_refused_and_the_connection_closed(
    server: Served, request_line: str
) -> None:
    head = f"{request_line} HTTP/1.1\nHost: x\nAuthorization: Bearer score-key\nContent-Length: 99999999999"
    status, headers, error = answer_to(server, head, b"x")
    assert (status, headers["connection"]) == (413, "close")
    assert error["details"] == {"limit": LIMIT, "setting": "METARM_MAX_BODY_BYTES"}


def test_the_announced_length_is_named_as_it_was_sent(server: Served) -> None:
    head = (
        "POST /score HTTP/1.1\nHost: x\nAuthorization: Bearer score-key\nContent-Length: 18446744073709551615"
    )
    status, _, error = answer_to(server, head, b"x")
    assert status == 413
    assert "18446744073709551615 bytes" in error["message"]
    head = f"POST /score HTTP/1.1\nHost: x\nAuthorization: Bearer score-key\nContent-Length: {LIMIT + 1:0>40}"
    assert answer_to(server, head, b"x")[0] == 413


def test_an_endless_body_ends_at_the_limit_also_without_a_key(server: Served) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    for key, status in (("\nAuthorization: Bearer score-key", 413), ("", 401)):
        head = f"POST /score HTTP/1.1\nHost: x\nTransfer-Encoding: chunked{key}"
        found, headers, _ = answer_to(server, head, chunk * (LIMIT // 0x8000 + 1))
        assert (found, headers["connection"]) == (status, "close")


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_arrive_in_time_is_refused_and_the_connection_closed(
    server: Served, framing: str
) -> None:
    head = f"POST /score HTTP/1.1\nHost: x\nAuthorization: Bearer score-key\n{framing}"
    status, headers, error = answer_to(server, head, b"1\r\n{\r\n")
    assert (status, headers["connection"], error["code"]) == (408, "close", "request_timeout")
    assert error["details"]["setting"] == "METARM_BODY_TIMEOUT_S"


def test_a_client_that_leaves_while_it_sends_is_counted_without_a_traceback(server: Served) -> None:
    def counted() -> bool:
        return (
            'rm_requests_total{route="/tokenize",status="400"} 1.0'
            in server.http.get("/metrics", headers=KEY).text
        )

    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer score-key\r\n")
        connection.sendall(b"Content-Length: 1000\r\n\r\n{")
        time.sleep(TIMEOUT_S / 5)  # the server has begun to read
    wait_until(counted)
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf8"',
        "application/vnd.api+json",
    ],
)
def test_json_is_accepted_under_its_content_types(server: Served, content_type: str | None) -> None:
    headers = {**KEY, **({} if content_type is None else {"content-type": content_type})}
    assert server.http.post("/score", content=json.dumps(BODY), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "mentions"),
    [
        ("text/plain", "text/plain"),
        ("application/x-www-form-urlencoded", "send JSON as application/json"),
        ("multipart/form-data; boundary=x", "multipart"),
        ("json", "json"),
        ("application/json; charset=utf-16", "utf-16"),
        ("x" * 50_000, "50000 characters, over 200"),
        ("application/json;" + "a=b;" * 15_000, "60017 characters, over 200"),
    ],
)
def test_another_content_type_is_refused_by_its_name(server: Served, content_type: str, mentions: str) -> None:
    answer = server.http.post("/score", content=b"{}", headers={**KEY, "content-type": content_type})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (415, "unsupported_media_type")
    assert mentions in error["message"]
    assert len(answer.content) < 1000


def test_headers_of_a_body_that_are_sent_twice_are_read_as_one(server: Served) -> None:
    answer = server.http.post(
        "/score",
        content=b"{}",
        headers=[*KEY.items(), ("content-type", "text/plain"), ("content-type", "application/json")],
    )
    assert answer.status_code == 415
    assert "text/plain,application/json" in answer.json()["error"]["message"]


def test_a_transfer_coding_that_is_not_decoded_is_refused(server: Served) -> None:
    head = "POST /score HTTP/1.1\nHost: x\nAuthorization: Bearer score-key\nTransfer-Encoding: gzip, chunked"
    status, _, error = answer_to(server, head, b"2\r\n{}\r\n0\r\n\r\n")
    assert (status, error["code"]) == (415, "unsupported_media_type")
    assert "gzip, chunked" in error["message"]


def test_a_compressed_body_without_its_header_is_recognised(server: Served) -> None:
    answer = server.http.post("/score", content=PACKED, headers=KEY)
    assert answer.status_code == 400
    assert "say so with 'Content-Encoding: gzip'" in answer.json()["error"]["message"]


def deflated(data: bytes) -> bytes:
    raw = zlib.compressobj(wbits=-15)
    return raw.compress(data) + raw.flush()


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("X-Gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", deflated),
        ("identity", bytes),
    ],
)
def test_a_compressed_body_is_read(server: Served, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    long = {"groups": [{"prompt": "x" * 400, "responses": ["y" * 400] * 3}]}
    for body in (BODY, long):
        headers = {**KEY, "content-encoding": encoding}
        answer = server.http.post("/score", content=compress(json.dumps(body).encode()), headers=headers)
        assert answer.status_code == 200


PACKED = gzip.compress(json.dumps(BODY).encode(), mtime=0)  # the same in both test processes


@pytest.mark.parametrize(
    ("encoding", "body", "status", "mentions"),
    [
        ("br", PACKED, 415, "'br'"),
        ("gzip, gzip", PACKED, 415, "gzip, gzip"),
        ("deflate", PACKED, 400, "deflate"),
        ("gzip", json.dumps(BODY).encode(), 400, "does not begin as gzip does"),
        ("gzip", PACKED[:-4], 400, "ends before"),
        ("gzip", PACKED + b"x", 400, "follows the end"),
        ("gzip", PACKED + PACKED, 400, "follows the end"),
        ("gzip", gzip.compress(bytes(100 * LIMIT), 1), 413, "METARM_MAX_BODY_BYTES"),
        ("gzip", gzip.compress(b" " * (LIMIT + 1)), 413, "METARM_MAX_BODY_BYTES"),
        ("gzip", gzip.compress(b" " * LIMIT, mtime=0), 400, "without a string"),
        ("gzip", gzip.compress(b"[" + b"0," * 1000 + b"0]", mtime=0), 413, "METARM_MAX_JSON_VALUES"),
        ("gzip", gzip.compress(b"", mtime=0), 400, "empty"),
    ],
)
def test_a_compressed_body_is_refused_within_the_same_bounds(
    server: Served, encoding: str, body: bytes, status: int, mentions: str
) -> None:
    answer = server.http.post("/score", content=body, headers={**KEY, "content-encoding": encoding})
    assert answer.status_code == status
    assert mentions in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        ({"groups": [0] * 1000}, "METARM_MAX_JSON_VALUES"),
        ({"groups": [{"prompt": "x", "responses": ["y" * 501]}]}, "METARM_MAX_TEXT_CHARS"),
        (
            {"groups": [{"prompt": [{"role": "user", "content": "x" * 249}] * 2, "responses": ["y"]}]},
            "METARM_MAX_TEXT_CHARS",
        ),
        ({"groups": [{"prompt": "x" * 500, "responses": ["y" * 500] * 4}]}, "METARM_MAX_REQUEST_CHARS"),
    ],
)
def test_a_limit_names_its_setting_and_value(server: Served, body: dict[str, Any], setting: str) -> None:
    for path in ("/score", "/tokenize"):
        answer = server.http.post(path, json=body, headers=KEY)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["details"]["setting"]) == (
            413,
            "payload_too_large",
            setting,
        )
        assert f"at most {error['details']['limit']} ({setting})" in error["message"]


@pytest.mark.parametrize(
    ("sizes", "details"),
    [([2, 40], {"group": 1}), ([33, 2], {}), ([33, 33], {})],
)
def test_a_group_with_too_many_characters_alone_is_named(
    server: Served, sizes: list[int], details: dict[str, int]
) -> None:
    groups = [{"prompt": "x", "responses": ["y" * 60] * size} for size in sizes]
    error = server.http.post("/score", json={"groups": groups}, headers=KEY).json()["error"]
    assert error["details"]["setting"] == "METARM_MAX_REQUEST_CHARS"
    assert {name: error["details"][name] for name in ("group",) if name in error["details"]} == details


def test_as_many_characters_as_the_limits_allow_are_scored(server: Served) -> None:
    groups = [
        {"prompt": [{"role": "user", "content": "x" * 246}] * 2, "responses": ["y" * 500]},
        {"prompt": "x" * 500, "responses": ["y" * 499]},
    ]
    assert server.http.post("/score", json={"groups": groups}, headers=KEY).status_code == 200


def test_a_body_is_optional_where_all_its_fields_are(server: Served) -> None:
    for body, encoding in ((b"", ""), (b"null", ""), (b"{}", ""), (gzip.compress(b"null"), "gzip")):
        headers = {**ADMIN, "content-encoding": encoding}
        answer = server.http.post("/versions/v000001/activate", content=body, headers=headers)
        assert answer.status_code == 200
    assert server.http.post("/score", content=b"null", headers=KEY).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        [],
        {},
        {"groups": [{"prompt": [{"role": "user", "content": "x", "a": 1}, 3], "responses": ["a"]}]},
        {"groups": [{"prompt": [3], "responses": ["a"]}]},
        {"groups": [{"prompt": "x", "responses": []}], "version": "v12", "raw": 1, "odd": {}},
    ],
)
def test_a_large_body_is_validated_as_a_small_one(server: Served, body: Any) -> None:
    text = json.dumps(body).encode()
    sent = [
        (text, {}),
        (b" " * (SMALL - 1) + text + b" " * 100, {}),
        (gzip.compress(text), {"content-encoding": "gzip"}),
    ]
    answers = [server.http.post("/tokenize", content=each, headers={**KEY, **more}) for each, more in sent]
    assert len({(answer.status_code, answer.text) for answer in answers}) == 1
    optional = [
        server.http.post("/versions/v000001/activate", content=each, headers={**ADMIN, **more})
        for each, more in sent
    ]
    assert len({(answer.status_code, answer.text) for answer in optional}) == 1


@pytest.mark.parametrize(
    ("body", "elsewhere"),
    [
        (BODY, False),
        ({"groups": [{"prompt": "x, y [1]" * 1000, "responses": ["y, z" * 1000] * 4}]}, False),
        ([{}] * 10_000, True),
        ([[]] * 10_000, True),
        ([0] * 20_000, True),
        ([""] * 10_000, True),
        (["x" * SMALL], True),
    ],
)
def test_a_body_of_many_values_is_validated_in_another_thread(body: Any, elsewhere: bool) -> None:
    """Otherwise it would hold up every other request."""
    sent, threads = json.dumps(body).encode(), []

    async def receive() -> Message:
        return {"type": "http.request", "body": sent}

    def validate(value: Any) -> tuple[Any, list[dict[str, Any]]]:
        threads.append(threading.current_thread())
        return value, []

    async def main() -> None:
        read = await bodies.read(
            Request({"type": "http"}, receive), None, ServiceSettings(), validate, required=True
        )
        assert await read.json() == body

    asyncio.run(main())
    assert [thread is not threading.current_thread() for thread in threads] == [True] * elsewhere


def test_names_of_any_length_are_answered_shortly(server: Served) -> None:
    long = "x" * 50_000
    digits = "v" + "1" * 50_000
    for method, path in (
        *(
            ("GET", f"/{route}/{name}")
            for route in ("versions", "retrain", "drift", "page")
            for name in (long, digits)
        ),
        ("GET", f"/versions/{digits}/curve"),
        ("POST", f"/versions/{digits}/activate"),
        ("DELETE", f"/labels/{long}"),
        ("DELETE", f"/leases/{long}"),
        ("GET", f"/{long}"),
        ("GET", f"/retrain?count={long}"),
    ):
        answer = server.http.request(method, path, headers=ADMIN)
        assert answer.status_code in (404, 422), path[:40]
        assert len(answer.content) < 3000
    pinned = server.http.post("/score", json=BODY, headers={**KEY, "X-RM-Version": digits})
    assert pinned.status_code == 422
    assert len(pinned.content) < 1000
