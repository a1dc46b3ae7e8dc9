"""What RewardClient sends, sends again and waits for, and the errors for what it cannot send."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from metarm import ClientError, RewardClient
from metarm.pauses import JITTER
from metarm.runtime.processes import free_port
from tests.scripted_http import (
    ALL,
    GROUPS,
    IDEMPOTENT,
    LOST,
    ONCE,
    Answer,
    Clock,
    KeepsAlive,
    Received,
    answering,
    api,
    error,
)


def first(*answers: Answer) -> Callable[[Received], Answer]:
    """These answers, and then the server's."""
    left = list(answers)
    return lambda received: left.pop(0) if left else api(received)


@pytest.mark.parametrize("status", [408, 429, 503])
@pytest.mark.parametrize("call", ALL.values(), ids=ALL.keys())
def test_every_call_is_sent_again_if_it_was_not_carried_out(
    call: Callable[[RewardClient], object], status: int
) -> None:
    busy = Answer(status, b"busy")
    with answering(by=first(busy, busy)) as server, RewardClient(server.url, clock=Clock()) as client:
        call(client)
    assert len(server.received) == 3


@pytest.mark.parametrize("answer", [Answer(502, b"bad gateway"), Answer(504, b"timeout"), LOST], ids=str)
@pytest.mark.parametrize("call", IDEMPOTENT.values(), ids=IDEMPOTENT.keys())
def test_an_idempotent_call_is_sent_again_if_its_answer_is_lost(
    call: Callable[[RewardClient], object], answer: Answer
) -> None:
    with answering(by=first(answer)) as server, RewardClient(server.url, clock=Clock()) as client:
        call(client)
    assert len(server.received) == 2


@pytest.mark.parametrize("answer", [Answer(502, b"bad gateway"), Answer(504, b"timeout"), LOST], ids=str)
@pytest.mark.parametrize("call", ONCE.values(), ids=ONCE.keys())
def test_a_call_that_must_not_happen_twice_is_not_sent_again_if_its_answer_is_lost(
    call: Callable[[RewardClient], object], answer: Answer
) -> None:
    with (
        answering(by=first(answer)) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError, match="may have been carried out") as raised,
    ):
        call(client)
    assert len(server.received) == 1
    assert raised.value.retry_after_s is None


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 409, 413, 422, 500, 501])
def test_a_final_answer_is_not_asked_for_again(status: int) -> None:
    with (
        answering(error(status, "a_code", "no")) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score([{"prompt": "One?", "responses": ["Yes."]}])
    assert len(server.received) == 1
    assert raised.value.http_status == status


@pytest.mark.parametrize("call", ALL.values(), ids=ALL.keys())
def test_every_call_waits_for_a_server_that_is_not_there_yet(call: Callable[[RewardClient], object]) -> None:
    port = free_port()
    with appearing_at(port) as clock:
        with RewardClient(f"http://127.0.0.1:{port}", clock=clock) as client:
            call(client)
        assert len(clock.slept) == 2


@contextmanager
def appearing_at(port: int) -> Iterator[Clock]:
    """A clock in whose second pause a server starts."""
    servers: list[Any] = []

    class Starts(Clock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 2:
                servers.append(answering(by=api, port=port))
                servers[0].__enter__()

    try:
        yield Starts()
    finally:
        for server in servers:
            server.__exit__(None, None, None)


def test_removing_again_what_a_lost_answer_had_removed_succeeds() -> None:
    gone = {"labels": error(404, "unknown_label", "gone"), "leases": error(404, "unknown_lease", "gone")}
    seen: set[str] = set()

    def removed_once(received: Received) -> Answer:
        if received.path in seen:
            return gone[received.path.split("/")[1]]
        seen.add(received.path)
        return LOST

    with answering(by=removed_once) as server, RewardClient(server.url, clock=Clock()) as client:
        client.remove_label("stable")
        client.release("lease-1")
        with pytest.raises(ClientError, match="unknown_label"):
            client.remove_label("stable")
    assert len(server.received) == 5


def http_date(after_s: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=after_s), usegmt=True)


@pytest.mark.parametrize(
    ("asked", "pause_s"), [("2", 2.0), ("60", 60.0), ("86400", 60.0), ("9" * 5000, 60.0), (86_400.0, 60.0)]
)
def test_a_pause_is_what_the_server_asks_for_within_bounds(asked: str | float, pause_s: float) -> None:
    """A number stands for the date after so many seconds."""
    assert pause_s <= pause_after(asked) <= min(pause_s * (1 + JITTER), 60.0)


@pytest.mark.parametrize(
    "asked", ["0", "-5", "²", "٣", "1.5", "soon", "", "1, 2", "nan", "Mon, 99 Foo 2020", -60.0, -1e9]
)
def test_a_request_for_no_pause_leaves_the_clients_own(asked: str | float) -> None:
    assert 0.25 <= pause_after(asked) <= 0.25 * (1 + JITTER)


def pause_after(asked: str | float) -> float:
    """The pause after a 503 with this Retry-After."""
    clock, text = Clock(), asked if isinstance(asked, str) else http_date(asked)
    busy = Answer(503, b"", {"retry-after": text.encode().decode("latin-1")})
    with answering(by=first(busy)) as server, RewardClient(server.url, clock=clock) as client:
        client.score(GROUPS)
    (slept,) = clock.slept
    return slept


def test_a_date_is_read_by_the_clock_of_the_server() -> None:
    clock, server_time = Clock(), datetime(2020, 1, 1, tzinfo=UTC)
    headers = {
        "date": format_datetime(server_time, usegmt=True),
        "retry-after": format_datetime(server_time + timedelta(seconds=20), usegmt=True),
    }

    class OwnDate(KeepsAlive):
        def date_time_string(self, _timestamp: float | None = None) -> str:
            return headers["date"]

    with (
        answering(by=first(Answer(503, b"", headers))) as server,
        RewardClient(server.url, clock=clock) as client,
    ):
        server.RequestHandlerClass = OwnDate
        client.score(GROUPS)
    assert 20.0 <= clock.slept[0] <= 20.0 * (1 + JITTER)


def test_own_pauses_grow_to_a_bound_and_differ_between_workers() -> None:
    pauses = []
    for _ in range(2):
        clock = Clock()
        with (
            answering(Answer(503, b"")) as server,
            RewardClient(server.url, retries=12, clock=clock) as client,
            pytest.raises(ClientError),
        ):
            client.ready()
        pauses.append(clock.slept)
    for slept in pauses:
        assert len(slept) == 12
        for place, pause in enumerate(slept):
            assert min(0.25 * 2**place, 5.0) <= pause <= min(0.25 * 2**place, 5.0) * (1 + JITTER)
    assert pauses[0] != pauses[1]


def test_a_call_ends_before_its_deadline() -> None:
    clock = Clock()
    with (
        answering(error(503, "overloaded", "full", retry_after="30")) as server,
        RewardClient(server.url, retries=1000, deadline_s=100, clock=clock) as client,
        pytest.raises(ClientError, match="deadline_s=100") as raised,
    ):
        client.score(GROUPS)
    assert sum(clock.slept) <= 100
    assert len(server.received) == len(clock.slept) + 1 >= 3
    assert (raised.value.http_status, raised.value.error_code) == (503, "overloaded")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
DRIPPING = {
    "body": (OK + b"content-length: 1000000\r\n\r\n", b" "),
    "status line": (b"", b"H"),
    "header": (OK + b"a: ", b"b"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk's size": (CHUNKED, b"0"),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "trailer": (CHUNKED + b"2\r\n{}\r\n0\r\na: ", b"b"),
    "silence": (b"", b""),
}


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize(("opening", "drop"), DRIPPING.values(), ids=DRIPPING.keys())
def test_an_answer_in_drops_ends_at_the_timeout(
    opening: bytes, drop: bytes, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dripping(opening, drop) as url:
        if proxied:
            monkeypatch.setenv("HTTP_PROXY", url)
        server = "http://metarm.invalid" if proxied else url
        with RewardClient(server, timeout_s=0.4, retries=0) as client:
            with pytest.raises(ClientError, match=r"not complete after 0\.4 s") as raised:
                client.ready()
            assert raised.value.error_code == "unreachable"


@pytest.mark.parametrize("call", ALL.values(), ids=ALL.keys())
def test_an_answer_in_drops_ends_at_the_deadline(call: Callable[[RewardClient], object]) -> None:
    with (
        dripping(*DRIPPING["header"]) as url,
        RewardClient(url, deadline_s=0.4) as client,
        pytest.raises(ClientError, match=r"deadline_s=0\.4 is over") as raised,
    ):
        call(client)
    assert (raised.value.error_code, raised.value.retry_after_s) == ("deadline_exceeded", None)


def test_an_answer_in_drops_over_tls_ends_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
    with (
        dripping(*DRIPPING["header"], tls) as url,
        RewardClient(url.replace("http:", "https:"), deadline_s=1.0) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.ready()
    assert raised.value.error_code == "deadline_exceeded"
    assert "no complete answer" in raised.value.message


def test_a_tunnel_that_a_proxy_opens_in_drops_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with dripping(*DRIPPING["header"]) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        with (
            RewardClient("https://metarm.invalid", deadline_s=0.4) as client,
            pytest.raises(ClientError) as raised,
        ):
            client.ready()
    assert raised.value.error_code == "deadline_exceeded"


def test_a_handshake_without_an_answer_ends_at_the_deadline() -> None:
    with (
        dripping(b"\x16\x03\x03\x40\x00", b"\x00") as url,
        RewardClient(url.replace("http:", "https:"), deadline_s=0.4) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.ready()
    assert raised.value.error_code == "deadline_exceeded"


def test_a_request_that_is_read_in_drops_ends_at_the_deadline() -> None:
    large, reads = [{"prompt": "One?", "responses": ["a" * 30_000_000]}], list[int]()
    with (
        dripping(b"", b"", reads=reads) as url,
        RewardClient(url, deadline_s=1.0) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(large)
    assert raised.value.error_code == "deadline_exceeded"
    assert 0 < sum(reads) < 25_000_000


def test_waiting_for_a_job_ends_while_a_status_comes_in_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarm.client.LAST_POLL_S", 0.2)
    with (
        dripping(*DRIPPING["header"]) as url,
        RewardClient(url) as client,
        pytest.raises(TimeoutError, match="of unknown status"),
    ):
        client.wait_for_job("job-1", timeout_s=0.2)


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context for 127.0.0.1, whose `certificate` is in the folder."""
    certificate, key = folder / "certificate", folder / "key"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    options = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *options], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@contextmanager
def dripping(
    opening: bytes, drop: bytes, tls: ssl.SSLContext | None = None, reads: list[int] | None = None
) -> Iterator[str]:
    """A server whose answer begins with `opening` and then never ends: it sends `drop` every 0.05 s. It goes on
    reading the request if `reads` is a list, and adds the number of bytes of each read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            plain, _ = listener.accept()
            plain.settimeout(30)
            with plain, contextlib.suppress(OSError):  # the client leaves
                connection = tls.wrap_socket(plain, server_side=True) if tls else plain
                with connection:
                    connection.recv(65_536)
                    connection.sendall(opening)
                    while not stop.wait(0.05):
                        if reads is not None:
                            reads.append(len(connection.recv(500_000)))
                        connection.sendall(drop)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def test_the_last_failure_says_whether_a_later_call_may_succeed() -> None:
    for answer, asked in ((error(503, "overloaded", "full", retry_after="7"), 7), (error(500, "x", "y"), None)):
        with (
            answering(answer) as server,
            RewardClient(server.url, retries=0, clock=Clock()) as client,
            pytest.raises(ClientError) as raised,
        ):
            client.score(GROUPS)
        assert raised.value.retry_after_s in ((None,) if asked is None else (7, 8, 9))


class DropsReused(KeepsAlive):
    """Closes a connection when a second request comes over it, unanswered."""

    def setup(self) -> None:
        super().setup()
        self.used = False

    def _answer(self) -> None:
        if self.used:
            self.close_connection = True
            return
        self.used = True
        super()._answer()

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 (the names http.server looks for)


def test_a_reset_of_an_idle_connection_is_not_noticed() -> None:
    clock = Clock()
    with answering(by=api) as server, RewardClient(server.url, retries=0, clock=clock) as client:
        server.RequestHandlerClass = DropsReused
        for call in (*ALL.values(), *ALL.values()):
            call(client)
    assert clock.slept == []
    assert len(server.received) == 2 * len(ALL)


def test_a_call_that_must_not_happen_twice_has_a_connection_of_its_own() -> None:
    with answering(by=api) as server, RewardClient(server.url) as client:
        server.RequestHandlerClass = KeepsAlive
        client.ready()
        client.retrain()
        client.ready()
        client.retrain()
    ready, retrain, again, other = (received.port for received in server.received)
    assert len({ready, retrain, other}) == 3
    assert ready == again


UNSENDABLE: dict[str, Any] = {
    "none": None,
    "a number": 5,
    "a text": "groups",
    "bytes": b"groups",
    "one group": GROUPS[0],
    "no groups": [],
    "an empty generator": iter([]),
    "groups of text": ["group"],
    "groups of None": [None],
    "no prompt": [{"responses": ["a"]}],
    "no responses": [{"prompt": "a"}],
    "a prompt of bytes": [{"prompt": b"a", "responses": ["a"]}],
    "a prompt of numbers": [{"prompt": 1, "responses": ["a"]}],
    "an empty conversation": [{"prompt": [], "responses": ["a"]}],
    "a conversation of texts": [{"prompt": ["a"], "responses": ["a"]}],
    "responses that are a text": [{"prompt": "a", "responses": "abc"}],
    "responses of bytes": [{"prompt": "a", "responses": [b"a"]}],
    "responses of None": [{"prompt": "a", "responses": ["a", None]}],
    "empty responses": [{"prompt": "a", "responses": []}],
    "responses that are a set": [{"prompt": "a", "responses": {"a", "b"}}],
    "a lone surrogate": [{"prompt": "a", "responses": ["\ud800"]}],
    "a lone surrogate in a message": [{"prompt": [{"role": "user", "content": "\udfff"}], "responses": ["a"]}],
    "NaN": [{"prompt": "a", "responses": ["a"], "weight": math.nan}],
    "an object": [{"prompt": "a", "responses": ["a"], "weight": object()}],
    "an id that is a number": [{"prompt": "a", "responses": ["a"], "id": 1}],
    "a surrogate as an id": [{"prompt": "a", "responses": ["a"], "id": "\ud800"}],
}


@pytest.mark.parametrize("groups", UNSENDABLE.values(), ids=UNSENDABLE.keys())
def test_groups_that_cannot_be_sent_are_refused_before_they_are(groups: Any) -> None:
    with (
        answering(by=api) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.score(groups)
    assert (raised.value.error_code, raised.value.http_status) == ("invalid_request", None)
    assert server.received == []


UNSENDABLE_CALLS: dict[str, Callable[[RewardClient], object]] = {
    "NaN": lambda client: client.retrain(learning_rate=math.nan),
    "infinity": lambda client: client.lease(version="v000001", ttl_s=math.inf),
    "an object": lambda client: client.retrain(steps=object()),
    "a version of bytes": lambda client: client.score(GROUPS, version=b"v000001"),  # type: ignore[arg-type]
    "a version that is a number": lambda client: client.score(GROUPS, version=5),  # type: ignore[arg-type]
    "a list as least version": lambda client: client.score(GROUPS, min_version=["v1"]),  # type: ignore[arg-type]
    "a surrogate version": lambda client: client.score(GROUPS, version="\ud800"),
    "a request id of bytes": lambda client: client.score(GROUPS, request_id=b"a"),  # type: ignore[arg-type]
    "a set as policy": lambda client: client.score(GROUPS, policy={"name", "step"}),  # type: ignore[arg-type]
    "an empty id": lambda client: client.job(""),
    "dots": lambda client: client.activate(".."),
    "no id": lambda client: client.release(None),  # type: ignore[arg-type]
    "bytes as an id": lambda client: client.job(b"job-1"),  # type: ignore[arg-type]
    "a surrogate id": lambda client: client.remove_label("\ud800"),
    "a wait without end": lambda client: client.wait_for_job("job-1", timeout_s=math.nan),
    "a wait back in time": lambda client: client.wait_for_job("job-1", poll_s=-1),
}


@pytest.mark.parametrize("call", UNSENDABLE_CALLS.values(), ids=UNSENDABLE_CALLS.keys())
def test_a_call_that_cannot_be_sent_is_refused_before_it_is(call: Callable[[RewardClient], object]) -> None:
    with (
        answering(by=api) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        call(client)
    assert raised.value.error_code == "invalid_request"
    assert server.received == []


def test_groups_may_come_from_a_generator_and_be_any_mapping() -> None:
    groups = (MappingProxyType({"prompt": f"{n}?", "responses": ("a", "b")}) for n in range(3))
    with answering(by=api) as server, RewardClient(server.url) as client:
        assert [len(group.scores) for group in client.score(groups).groups] == [2, 2, 2]


def test_a_name_with_reserved_characters_stays_one_part_of_the_path() -> None:
    with answering(Answer(404, b"")) as server, RewardClient(server.url) as client:
        for name in ("a/b", "a?b=c", "a b#", "ä\n", "%2e%2e"):
            with pytest.raises(ClientError):
                client.job(name)
    assert [received.path for received in server.received] == [
        "/retrain/a%2Fb",
        "/retrain/a%3Fb%3Dc",
        "/retrain/a%20b%23",
        "/retrain/%C3%A4%0A",
        "/retrain/%252e%252e",
    ]


@pytest.mark.parametrize("key", ["ключ", "a\n", "a\r\nX: y", " a", "a ", "\ud800", "a\x00", "a\x7f", b"a", 7])
def test_a_key_that_is_no_header_value_is_refused_at_once_and_not_shown(key: Any) -> None:
    with pytest.raises(ClientError) as raised:
        RewardClient(api_key=key)
    assert raised.value.error_code == "invalid_request"
    assert repr(key) not in raised.value.message


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8080", "localhost:8080", "ftp://host", "http://", "http://[::1", "http://host:port"),
        *("http://host:99999", "http://host/?a=b", "http://\ud800", b"http://host", None),
    ],
)
def test_a_base_url_that_names_no_server_is_refused_at_once(url: Any) -> None:
    with pytest.raises(ClientError) as raised:
        RewardClient(url)
    assert raised.value.error_code == "invalid_request"
    assert "of the form http://host:port" in raised.value.message


@pytest.mark.parametrize(
    "options",
    [{"retries": -1}, {"retries": 1.5}, {"retries": None}]
    + [{name: value} for name in ("timeout_s", "deadline_s") for value in (0, -1, math.nan, None, "1", True)],
    ids=str,
)
def test_limits_without_a_meaning_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as raised:
        RewardClient(**options)
    assert raised.value.error_code == "invalid_request"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks9://a"), ("HTTP_PROXY", "http://[::1"), ("SSL_CERT_FILE", "/absent")],
)
def test_an_unusable_environment_is_refused_at_once(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ClientError, match="environment") as raised:
        RewardClient()
    assert raised.value.error_code == "invalid_request"


def test_unlimited_times_are_limits_too() -> None:
    with (
        answering(by=api) as server,
        RewardClient(server.url, timeout_s=math.inf, deadline_s=math.inf) as client,
    ):
        assert client.ready()["status"] == "ready"


def test_a_password_in_the_base_url_is_not_in_an_error() -> None:
    with (
        RewardClient(f"http://user:secret@127.0.0.1:{free_port()}", retries=0) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.ready()
    assert "secret" not in raised.value.message


@pytest.mark.parametrize(
    ("status", "body"), [(404, b'{"detail":"Not Found"}'), (404, b""), (405, b""), (404, None), (405, None)]
)
def test_an_error_about_a_path_that_is_not_of_this_api_names_the_url(status: int, body: bytes | None) -> None:
    code = "not_found" if status == 404 else "method_not_allowed"
    answer = error(status, code, "no") if body is None else Answer(status, body)
    with answering(answer) as server:
        url = server.url.replace("//", "//user:secret@") + "/score"
        with RewardClient(url) as client, pytest.raises(ClientError) as raised:
            client.score(GROUPS)
    assert f"{server.url}/score/score" in raised.value.message
    assert "secret" not in raised.value.message


def test_an_error_of_the_api_itself_names_no_url() -> None:
    with (
        answering(error(404, "unknown_version", "no such version")) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.activate("v000001")
    assert server.url not in raised.value.message


def test_a_host_that_cannot_exist_is_unreachable() -> None:
    with RewardClient("http://a..b", retries=0) as client, pytest.raises(ClientError) as raised:
        client.ready()
    assert raised.value.error_code == "unreachable"


@pytest.mark.parametrize("call", ALL.values(), ids=ALL.keys())
def test_a_closed_client_refuses_every_call(call: Callable[[RewardClient], object]) -> None:
    with answering(by=api) as server:
        client = RewardClient(server.url, clock=Clock())
        client.close()
        client.close()
        with pytest.raises(ClientError) as raised:
            call(client)
    assert raised.value.error_code == "client_closed"
    assert server.received == []


def test_closing_a_client_ends_the_calls_of_other_threads_with_a_client_error() -> None:
    arrived, release = threading.Event(), threading.Event()
    failures: list[Exception] = []

    def held(received: Received) -> Answer:
        arrived.set()
        release.wait(30)
        return LOST

    def call() -> None:
        try:
            client.score(GROUPS)
        except Exception as failure:  # noqa: BLE001 (the test asserts its class)
            failures.append(failure)

    with answering(by=held) as server:
        client = RewardClient(server.url, clock=Clock())
        thread = threading.Thread(target=call)
        thread.start()
        arrived.wait(30)
        client.close()
        release.set()
        thread.join()
    assert [type(failure) for failure in failures] == [ClientError]


def test_many_threads_share_one_client() -> None:
    results: list[str] = []
    with answering(by=api) as server, RewardClient(server.url) as client:
        server.RequestHandlerClass = KeepsAlive
        threads = [
            threading.Thread(target=lambda: results.append(client.score(GROUPS).version)) for _ in range(150)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == ["v000009"] * 150


def test_waiting_for_a_job_survives_a_server_that_restarts() -> None:
    running = Answer(200, {"job": "job-1", "status": "running", "progress": {}})
    away = [Answer(503, b"")] * 20 + [LOST] * 20 + [Answer(502, b"")] * 20
    clock = Clock()
    with (
        answering(by=first(running, *away, running)) as server,
        RewardClient(server.url, retries=2, clock=clock) as client,
    ):
        assert client.wait_for_job("job-1")["status"] == "published"
    assert len(server.received) == 63


def test_waiting_for_a_job_ends_at_the_timeout_if_the_server_stays_away() -> None:
    clock = Clock()
    with (
        RewardClient(f"http://127.0.0.1:{free_port()}", clock=clock) as client,
        pytest.raises(TimeoutError, match="of unknown status") as raised,
    ):
        client.wait_for_job("job-1", timeout_s=60.0)
    assert isinstance(raised.value.__cause__, ClientError)
    assert sum(clock.slept) <= 65.0


def test_a_long_poll_ends_at_the_timeout() -> None:
    clock = Clock()
    running = Answer(200, {"job": "job-1", "status": "running", "progress": {}})
    with (
        answering(running) as server,
        RewardClient(server.url, clock=clock) as client,
        pytest.raises(TimeoutError),
    ):
        client.wait_for_job("job-1", timeout_s=10.0, poll_s=86_400.0)
    assert clock.slept == [10.0]


def test_waiting_for_a_job_ends_at_once_if_there_is_none() -> None:
    with (
        answering(error(404, "unknown_job", "no such job")) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError, match="unknown_job"),
    ):
        client.wait_for_job("job-1")
    assert len(server.received) == 1
