"""Clients that leave: their waiting work ends, a retry continues it, and equal requests in flight are one."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import httpx
import orjson
import pytest
import uvicorn
import uvloop
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from transformers import AutoConfig, BertForSequenceClassification

from metarm.errors import ClientDisconnectedError
from metarm.runtime.processes import free_port
from metarm.shared.keys import SAMPLES
from metarm.shared.sample_log import SampleLog
from service.http.connections import Connection
from service.http.disconnects import PRESENCE, ClientPresent, Presence
from service.telemetry.metrics import Metrics
from service.telemetry.request_log import RequestLog
from tests.processes import HttpThread, RedisProcess, service_here
from tests.series import value_of
from tests.store import publish
from tests.tiny import CORPUS, Kind, make_checkpoint

Checkpoint = Callable[[Kind], Path]
SLICE, QUEUE = 256, 4000
SETTINGS = {
    "METARM_SCORE_WORKERS": "1",
    "METARM_SCORE_THREADS": "1",
    "METARM_BATCH_TOKENS": str(SLICE),
    "METARM_SLICE_TOKENS": str(SLICE),
    "METARM_QUEUE_TOKENS": str(QUEUE),
}
LONG = 300  # responses of a request that takes a second or more by `slow_checkpoint`


class Client:
    """A client that can leave while it waits for its answer."""

    def __init__(self, port: int, path: str, body: dict[str, Any]) -> None:
        content = orjson.dumps(body)
        headers = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


@pytest.fixture
def server(checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess) -> Iterator[HttpThread]:
    publish(tmp_path, slow_checkpoint(tmp_path / "slow", checkpoint("bert")))
    with service_here(tmp_path, redis_process.url, **SETTINGS) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def slow_checkpoint(folder: Path, tiny: Path) -> Path:
    """A BERT that computes a few thousand tokens a second, with the tokenizer of `tiny`."""
    shutil.copytree(tiny, folder)
    config = AutoConfig.from_pretrained(
        tiny, hidden_size=128, num_hidden_layers=4, intermediate_size=512, num_attention_heads=4
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def request(name: str, responses: int, **fields: Any) -> dict[str, Any]:
    """A body of `responses` different texts that no other name has."""
    words, rng = " ".join(CORPUS).split(), random.Random(name)
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(responses)]
    return {"groups": [{"prompt": "What is it?", "responses": texts}], "request_id": name, **fields}


def metric(server: HttpThread, series: str) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


def computed(server: HttpThread) -> float:
    return metric(server, "rm_batch_tokens_sum")


def room_taken(server: HttpThread) -> float:
    return metric(server, "rm_queue_tokens ")


def left(server: HttpThread, route: str = "/score") -> float:
    return metric(server, f'rm_undelivered_total{{route="{route}",stage="waiting"}}')


def tokens_of(answer: httpx.Response) -> int:
    return sum(sum(group["tokens"]) for group in answer.json()["groups"])


def post(server: HttpThread, body: dict[str, Any]) -> httpx.Response:
    answer = server.http.post("/score", json=body)
    assert answer.status_code == 200, answer.text
    return answer


@contextmanager
def busy(server: HttpThread, threads: ThreadPoolExecutor) -> Iterator[Future[httpx.Response]]:
    """A long request is computed in the block."""
    answer = threads.submit(post, server, request("long", LONG))
    server.wait_until(lambda: room_taken(server) == QUEUE // 4)
    yield answer
    answer.result()


def settle(server: HttpThread) -> None:
    """Return once the server has seen all that was sent to it before."""
    for _ in range(3):
        server.http.get("/metrics")


def test_a_client_that_leaves_takes_its_request_out_of_the_queue(
    server: HttpThread, threads: ThreadPoolExecutor
) -> None:
    with busy(server, threads) as running:
        with Client(server.port, "/score", request("gone", LONG)):
            server.wait_until(lambda: room_taken(server) == QUEUE // 2)
        server.wait_until(lambda: room_taken(server) == QUEUE // 4)
        assert not running.done()
        assert left(server) == 1
        assert metric(server, 'rm_requests_total{route="/score",status="499"}') == 1
    unwanted = metric(server, "rm_undelivered_tokens_total")
    assert computed(server) == tokens_of(running.result()) + unwanted
    assert unwanted < tokens_of(running.result()) / 2
    assert "POST answered with 499" in server.output
    assert "Traceback" not in server.output


def test_a_retry_continues_what_was_computed_for_a_client_that_left(server: HttpThread) -> None:
    with Client(server.port, "/score", request("again", LONG)):
        server.wait_until(lambda: computed(server) > 0)
    server.wait_until(lambda: left(server) == 1 and room_taken(server) == 0)
    server.wait_until(lambda: metric(server, "rm_undelivered_tokens_total") == computed(server))
    begun = computed(server)
    answer = post(server, request("again", LONG))
    assert 0 < begun < tokens_of(answer)
    assert computed(server) == tokens_of(answer)
    assert metric(server, "rm_undelivered_tokens_total") == begun


def test_a_retry_that_comes_at_once_repeats_not_even_the_slice_that_was_computed(server: HttpThread) -> None:
    for _ in range(3):
        before = computed(server)
        with Client(server.port, "/score", request("again", LONG)):
            server.wait_until(lambda before=before: computed(server) > before)  # type: ignore[misc]
    answer = post(server, request("again", LONG))
    assert left(server) == 3
    assert computed(server) == tokens_of(answer)


@pytest.mark.parametrize("request_id", [None, "gone"])
def test_only_the_slice_of_a_worker_ends_for_nobody(server: HttpThread, request_id: str | None) -> None:
    with Client(server.port, "/score", request("gone", LONG) | {"request_id": request_id}):
        server.wait_until(lambda: computed(server) > 0)
    server.wait_until(lambda: left(server) == 1)
    after = computed(server)
    settle(server)
    post(server, request("next", 1))
    assert computed(server) - after <= SLICE + 128  # the slice, and the next request


def test_no_sample_is_logged_for_a_client_that_left_unless_its_retry_is_answered(
    server: HttpThread, redis_process: RedisProcess
) -> None:
    for name in ("left", "retried"):
        with Client(server.port, "/score", request(name, LONG)):
            server.wait_until(lambda: room_taken(server) > 0)
    server.wait_until(lambda: left(server) == 2)
    post(server, request("retried", LONG))
    post(server, request("last", 1))
    server.wait_until(lambda: metric(server, "rm_samples_logged_total") == 2)
    with redis_process.client() as client:
        assert client.xlen(SAMPLES) == 2
        logged = SampleLog(client).read_unused(10).groups
    assert [group.request_id for group in logged if len(group.responses) > 1] == ["retried"]


@pytest.mark.slow
def test_equal_requests_in_flight_are_computed_and_logged_once(
    server: HttpThread, threads: ThreadPoolExecutor
) -> None:
    body = request("same", 2 * LONG, raw=True)
    with busy(server, threads):
        answers = [threads.submit(post, server, body) for _ in range(4)]
        server.wait_until(lambda: room_taken(server) == QUEUE // 2)
    contents = [answer.result().content for answer in answers]
    assert len(set(contents)) == 1
    assert metric(server, "rm_responses_scored_total") == LONG + 2 * LONG
    server.wait_until(lambda: metric(server, "rm_samples_logged_total") == 2)
    assert metric(server, 'rm_samples_dropped_total{reason="duplicate"}') == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"raw": True}, {"log": False}, {"version": "v000001"}, {"policy": {"name": "actor", "step": 1}}],
)
def test_requests_of_one_id_that_ask_for_something_else_are_answered_separately(
    server: HttpThread, threads: ThreadPoolExecutor, change: dict[str, Any]
) -> None:
    body = request("same", LONG)
    with busy(server, threads):
        answers = [threads.submit(post, server, {**body, **more}) for more in ({}, change)]
        settle(server)
    for answer in answers:
        assert answer.result().json()["version"] == "v000001"
    assert metric(server, "rm_responses_scored_total") == 3 * LONG


@pytest.mark.parametrize("leaves", ["first", "second"])
def test_the_work_of_equal_requests_goes_on_while_one_client_waits(
    server: HttpThread, threads: ThreadPoolExecutor, leaves: str
) -> None:
    body = request("same", LONG)
    with busy(server, threads):
        if leaves == "first":
            with Client(server.port, "/score", body):
                server.wait_until(lambda: room_taken(server) == QUEUE // 2)
                stays = threads.submit(post, server, body)
                settle(server)
        else:
            stays = threads.submit(post, server, body)
            server.wait_until(lambda: room_taken(server) == QUEUE // 2)
            with Client(server.port, "/score", body):
                settle(server)
        server.wait_until(lambda: left(server) == 1)
        assert room_taken(server) == QUEUE // 2
    assert len(stays.result().json()["groups"][0]["scores"]) == LONG
    assert metric(server, "rm_undelivered_tokens_total") == 0
    assert metric(server, "rm_responses_scored_total") == 2 * LONG


def test_the_work_of_equal_requests_ends_when_all_clients_have_left(
    server: HttpThread, threads: ThreadPoolExecutor
) -> None:
    body = request("same", LONG)
    with busy(server, threads) as running:
        with Client(server.port, "/score", body), Client(server.port, "/score", body):
            server.wait_until(lambda: room_taken(server) == QUEUE // 2)
            settle(server)
        server.wait_until(lambda: left(server) == 2 and room_taken(server) == QUEUE // 4)
        assert not running.done()
    unwanted = metric(server, "rm_undelivered_tokens_total")
    assert computed(server) == tokens_of(running.result()) + unwanted
    assert metric(server, "rm_responses_scored_total") == LONG


def test_a_failure_reaches_all_who_wait_and_names_the_version(
    checkpoint: Checkpoint, tmp_path: Path, redis_process: RedisProcess
) -> None:
    checkpoint_ = make_checkpoint(tmp_path / "chat", "llama-chat")
    publish(tmp_path, checkpoint_)
    body = request("refused", 500)
    body["groups"].append({"prompt": [{"role": "critic", "content": "no"}], "responses": ["x"]})
    with service_here(tmp_path, redis_process.url, **SETTINGS) as server, ThreadPoolExecutor(4) as threads:
        server.wait_ready()
        answers = list(threads.map(lambda _: server.http.post("/score", json=body), range(4)))
        assert post(server, request("next", 1)).status_code == 200
    assert {answer.status_code for answer in answers} == {422}
    assert {answer.headers["x-rm-version"] for answer in answers} == {"v000001"}


def test_a_request_larger_than_the_queue_is_answered_and_small_requests_beside_it_too(
    server: HttpThread, threads: ThreadPoolExecutor
) -> None:
    whole = request("whole", 2 * LONG)
    answer = threads.submit(post, server, whole)
    server.wait_until(lambda: room_taken(server) == QUEUE // 4)
    for number in range(5):
        post(server, request(f"small {number}", 2))
    assert not answer.done()
    assert tokens_of(answer.result()) > 5 * QUEUE


@pytest.mark.parametrize(("path", "fields"), [("/score", {}), ("/tokenize", {}), ("/leases", {})])
def test_a_client_that_leaves_ends_the_wait_for_a_load_but_not_the_load(
    server: HttpThread, checkpoint: Checkpoint, tmp_path: Path, path: str, fields: dict[str, Any]
) -> None:
    pinned = publish(tmp_path, checkpoint("bert"), activate=False)
    groups = {"groups": [{"prompt": "x", "responses": ["y"]}], "version": pinned}
    body = {"version": pinned, "ttl_s": 60} if path == "/leases" else groups
    with held_load(tmp_path / "versions" / pinned / "manifest.json") as release:
        with Client(server.port, path, body):
            server.wait_until(lambda: metric(server, "rm_requests_total") > 0)
            settle(server)
        server.wait_until(lambda: left(server, path) == 1)
        release()
    server.wait_until(lambda: metric(server, f'rm_version_loads_total{{version="{pinned}"}}') == 1)
    assert server.http.get("/leases").json() == []


@contextmanager
def held_load(manifest: Path) -> Iterator[Callable[[], None]]:
    """Reading `manifest` waits until the function is called, at the latest at the end of the block."""
    content = manifest.read_bytes()
    manifest.unlink()
    os.mkfifo(manifest)
    released = threading.Event()

    def release() -> None:
        if not released.is_set():
            released.set()
            aside = manifest.with_suffix(".aside")
            aside.write_bytes(content)
            with manifest.open("wb") as held:  # waits for the reader
                aside.rename(manifest)
                held.write(content)

    try:
        yield release
    finally:
        release()


@pytest.mark.slow
def test_clients_that_leave_and_come_back_cost_at_most_the_slice_they_left(
    server: HttpThread, threads: ThreadPoolExecutor
) -> None:
    leaves = 3

    def client(number: int) -> int:
        rng, body = random.Random(number), request(f"client {number}", 8)
        for _ in range(leaves):
            with Client(server.port, "/score", body):
                threading.Event().wait(rng.uniform(0, 0.3))
        while (answer := server.http.post("/score", json=body)).status_code == 503:
            threading.Event().wait(0.05)
        return tokens_of(answer)

    delivered = sum(threads.map(client, range(30)))
    server.wait_until(lambda: room_taken(server) == 0)
    assert delivered <= computed(server) <= delivered + 30 * leaves * SLICE
    assert metric(server, "rm_samples_logged_total") <= 30


# --- the watch itself, in an application of its own ------------------------------------------------


@asynccontextmanager
async def serving(handler: Callable[[Request], Any]) -> AsyncIterator[int]:
    app, port = FastAPI(), free_port()
    app.add_api_route("/", handler, methods=["POST"], response_model=None)
    connection = partial(Connection, header_timeout_s=20.0, log=RequestLog())
    config = uvicorn.Config(app, port=port, http=cast("type[asyncio.Protocol]", connection), log_config=None)
    web = uvicorn.Server(config)
    task = asyncio.create_task(web.serve())
    while not web.started:  # noqa: ASYNC110 (uvicorn sets no event)
        await asyncio.sleep(0.005)
    yield port
    web.should_exit = True
    await task


async def send(port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
    return writer


def test_the_block_is_cancelled_when_the_client_leaves() -> None:
    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.get_running_loop().create_future()
        metrics = Metrics()

        async def handler(request: Request) -> None:
            await request.body()
            try:
                with ClientPresent(request, metrics):
                    began.set()
                    await asyncio.Event().wait()
            except BaseException as error:  # noqa: BLE001 (the test compares it)
                ended.set_result(error)

        async with serving(handler) as port, asyncio.timeout(20):
            writer = await send(port)
            await began.wait()
            writer.close()
            assert isinstance(await ended, ClientDisconnectedError)
        assert value_of(metrics.undelivered.labels("/", "waiting")) == 1

    asyncio.run(main())


def test_a_client_that_leaves_several_requests_is_noted_by_each(caplog: pytest.LogCaptureFixture) -> None:
    """The web server marks only the latest: the one that runs would write to a closed connection."""

    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.Event()
        metrics = Metrics()

        async def handler(request: Request) -> Response:
            await request.body()
            try:
                with ClientPresent(request, metrics):
                    began.set()
                    await asyncio.Event().wait()
            except ClientDisconnectedError as error:
                asyncio.get_running_loop().call_later(0.1, ended.set)
                return Response(status_code=error.status)
            raise AssertionError("the client has not left")

        async with serving(handler) as port, asyncio.timeout(20):
            writer = await send(port)
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            await began.wait()
            await asyncio.sleep(0.1)  # the second request is read
            writer.transport.abort()
            await ended.wait()

    uvloop.run(main())  # its closed transports refuse to write
    assert "Traceback" not in caplog.text


def test_an_answer_whose_client_leaves_while_it_is_made_counts_as_undelivered() -> None:
    async def main() -> None:
        presence, metrics = Presence(), Metrics()
        route = APIRoute("/score", asyncio.sleep)
        request = Request({"type": "http", "route": route, PRESENCE: presence})
        with pytest.raises(ClientDisconnectedError, match="answered"), ClientPresent(request, metrics):
            presence.has_left = True
        assert value_of(metrics.undelivered.labels("/score", "answered")) == 1
        with pytest.raises(ClientDisconnectedError, match="waiting"), ClientPresent(request, metrics):
            raise AssertionError("nothing is done for a client that has left")
        assert value_of(metrics.undelivered.labels("/score", "waiting")) == 1

    asyncio.run(main())


def test_a_task_that_others_cancel_stays_cancelled() -> None:
    async def main() -> None:
        began, ended = asyncio.Event(), asyncio.get_running_loop().create_future()
        metrics = Metrics()

        async def handler(request: Request) -> None:
            await request.body()
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.01, task.cancel)
            try:
                with ClientPresent(request, metrics):
                    began.set()
                    await asyncio.Event().wait()
            except BaseException as error:  # noqa: BLE001 (the test compares it)
                ended.set_result(error)
                task.uncancel()

        async with serving(handler) as port, asyncio.timeout(20):
            writer = await send(port)
            assert isinstance(await ended, asyncio.CancelledError)
            writer.close()
        assert re.search(r"undelivered_total\{", metrics.render().decode()) is None

    asyncio.run(main())
