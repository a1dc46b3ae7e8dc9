from __future__ import annotations

import json
import os
import threading
import time

import pytest

from metarm import ClientError, PolicyStamp, RewardClient
from metarm.records import ScoredGroup, ScoreResult
from metarm.runtime.processes import free_port
from tests.scripted_http import Answer, Clock, Handler, KeepsAlive, answering, api, error, job

GROUPS = [{"prompt": "One?", "responses": ["Yes.", "No."]}]
GROUP = {"id": "0", "version": "v000003", "scores": [0.5, -1.0], "tokens": [4, 5], "truncated": [False, True]}
SCORED = {"version": "v000003", "groups": [GROUP]}


def test_scores_are_returned_as_records_with_the_version_that_produced_them() -> None:
    with answering(Answer(200, SCORED)) as server, RewardClient(server.url) as client:
        result = client.score(GROUPS)
    assert result == ScoreResult("v000003", (ScoredGroup("0", (0.5, -1.0), (4, 5), (False, True), "v000003"),))
    (received,) = server.received
    assert (received.method, received.path) == ("POST", "/score")
    assert received.body["groups"] == GROUPS
    assert received.body["log"] is True
    assert set(received.body) == {"groups", "log", "request_id"}  # options that are not given are not sent


def test_every_given_option_is_sent() -> None:
    policy = {"name": "actor", "step": 7}
    with answering(Answer(200, SCORED)) as server, RewardClient(server.url, api_key="secret") as client:
        client.score(
            GROUPS, version="v000003", min_version="v000002", log=False, policy=policy, request_id="mine"
        )
    (received,) = server.received
    assert received.headers["Authorization"] == "Bearer secret"
    assert received.body == {
        "groups": GROUPS,
        "log": False,
        "request_id": "mine",
        "version": "v000003",
        "min_version": "v000002",
        "policy": policy,
    }


def test_a_policy_can_be_a_stamp_or_a_mapping() -> None:
    with answering(Answer(200, SCORED)) as server, RewardClient(server.url) as client:
        client.score(GROUPS, policy=PolicyStamp("actor", 7))
        client.score(GROUPS, policy={"name": "actor", "step": 7})
    stamped, mapped = (received.body["policy"] for received in server.received)
    assert stamped == mapped == {"name": "actor", "step": 7}


def test_every_request_has_a_unique_id() -> None:
    with answering(Answer(200, SCORED)) as server, RewardClient(server.url) as client:
        client.score(GROUPS)
        client.score(GROUPS)
    first, second = (received.body["request_id"] for received in server.received)
    assert first != second


def test_a_request_to_an_overloaded_server_is_retried_with_the_same_id() -> None:
    busy = error(503, "overloaded", "full", retry_after="0")
    with answering(busy, busy, Answer(200, SCORED)) as server, RewardClient(server.url) as client:
        assert client.score(GROUPS).version == "v000003"
    assert len(server.received) == 3
    assert len({json.dumps(received.body) for received in server.received}) == 1


def test_a_retry_waits_as_long_as_the_server_asks() -> None:
    busy = error(503, "overloaded", "full", retry_after="1")
    with answering(busy, Answer(200, SCORED)) as server, RewardClient(server.url) as client:
        client.score(GROUPS)
    first, second = server.received
    assert 1.0 <= second.at - first.at < 3.0


def test_a_server_that_stays_overloaded_raises_an_error_after_the_retries() -> None:
    busy = error(503, "overloaded", "full", {"retry_after_s": 0}, retry_after="0")
    with (
        answering(busy) as server,
        RewardClient(server.url, retries=2) as client,
        pytest.raises(ClientError, match="full") as raised,
    ):
        client.score(GROUPS)
    assert len(server.received) == 3
    assert (raised.value.http_status, raised.value.error_code) == (503, "overloaded")
    assert raised.value.details == {"retry_after_s": 0}


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthorized"), (404, "unknown_version"), (409, "job_running"), (422, "invalid_request")],
)
def test_a_rejection_raises_the_servers_code_and_message_without_a_retry(status: int, code: str) -> None:
    with (
        answering(error(status, code, "because of this", {"a": 1})) as server,
        RewardClient(server.url) as client,
        pytest.raises(ClientError, match=f"{status} {code}: because of this") as raised,
    ):
        client.score(GROUPS)
    assert len(server.received) == 1
    assert (raised.value.http_status, raised.value.error_code) == (status, code)
    assert raised.value.details == {"a": 1}


@pytest.mark.parametrize(
    "body", [b"<html>bad gateway</html>", b"", b"[]", b'{"error": "text"}', b'{"error": {}}']
)
def test_an_error_response_in_another_format_raises_a_client_error(body: bytes) -> None:
    with (
        answering(Answer(502, body)) as server,
        RewardClient(server.url, clock=Clock()) as client,
        pytest.raises(ClientError) as raised,
    ):
        client.ready()
    assert (raised.value.http_status, raised.value.error_code) == (502, "unreadable_answer")


def test_an_absent_server_is_retried_and_then_reported_as_unreachable() -> None:
    started = time.monotonic()
    with (
        RewardClient(f"http://127.0.0.1:{free_port()}", retries=1) as client,
        pytest.raises(ClientError, match="no answer") as raised,
    ):
        client.score(GROUPS)
    assert (raised.value.http_status, raised.value.error_code) == (None, "unreachable")
    assert time.monotonic() - started >= 0.25


def test_a_server_that_returns_during_the_retries_is_reached() -> None:
    port = free_port()
    result: list[str] = []

    def score() -> None:
        with RewardClient(f"http://127.0.0.1:{port}", retries=5) as client:
            result.append(client.score(GROUPS).version)

    thread = threading.Thread(target=score)
    thread.start()
    time.sleep(0.1)
    with answering(Answer(200, SCORED), port=port):
        thread.join()
    assert result == ["v000003"]


def test_a_server_that_never_answers_is_reported_as_unreachable() -> None:
    release = threading.Event()

    class Hanging(Handler):
        def _answer(self) -> None:
            release.wait(10)

        do_GET = _answer  # noqa: N815

    with answering(Answer(200, {})) as server:
        server.RequestHandlerClass = Hanging
        with (
            RewardClient(server.url, timeout_s=0.2, retries=0) as client,
            pytest.raises(ClientError) as raised,
        ):
            client.ready()
        release.set()
    assert raised.value.error_code == "unreachable"


@pytest.mark.parametrize("status", ["published", "rejected", "failed", "cancelled"])
def test_waiting_for_a_job_ends_when_the_job_ends(status: str) -> None:
    seen: list[str] = []
    with answering(job("queued"), job("running"), job(status)) as server, RewardClient(server.url) as client:
        state = client.wait_for_job("job-1", poll_s=0.01, on_progress=lambda s: seen.append(s["status"]))
    assert state["status"] == status
    assert seen == ["queued", "running", status]
    assert {(r.method, r.path) for r in server.received} == {("GET", "/retrain/job-1")}


def test_waiting_for_a_job_ends_at_the_timeout() -> None:
    clock = Clock()
    with (
        answering(job("running")) as server,
        RewardClient(server.url, clock=clock) as client,
        pytest.raises(TimeoutError, match="job-1 is still running"),
    ):
        client.wait_for_job("job-1", timeout_s=60.0, poll_s=25.0)
    assert clock.slept == [25.0, 25.0, 10.0]
    assert len(server.received) == 4


def test_every_other_call_uses_the_method_and_path_of_the_api() -> None:
    with answering(by=api) as server, RewardClient(server.url) as client:
        client.ready()
        client.versions()
        client.drift()
        client.activate("v000001")
        client.retrain(steps=3)
        client.retrain(reuse="job-0", steps=3)
        client.job("job-1")
        client.cancel("job-1")
    assert [(r.method, r.path, r.body) for r in server.received] == [
        ("GET", "/ready", None),
        ("GET", "/versions", None),
        ("GET", "/drift", None),
        ("POST", "/versions/v000001/activate", None),
        ("POST", "/retrain", {"steps": 3}),
        ("POST", "/retrain", {"steps": 3, "reuse": "job-0"}),
        ("GET", "/retrain/job-1", None),
        ("DELETE", "/retrain/job-1", None),
    ]


LEASED = Answer(201, {"lease": "lease-1", "version": "v000002", "expires": 100.0})


def test_raw_rewards_are_returned_on_request_with_each_groups_version() -> None:
    group = {**GROUP, "version": "v000004", "raw": [1.5, -3.0]}
    with answering(Answer(200, {**SCORED, "groups": [group]})) as server, RewardClient(server.url) as client:
        result = client.score(GROUPS, raw=True)
    assert server.received[0].body["raw"] is True
    assert result.version == "v000003"
    assert (result.groups[0].version, result.groups[0].raw) == ("v000004", (1.5, -3.0))


def test_inside_a_lease_requests_are_pinned_unless_they_name_a_version() -> None:
    with answering(by=api) as server, RewardClient(server.url) as client:
        with client.lease(label="stable", ttl_s=60) as lease:
            assert (lease.id, lease.version, lease.expires) == ("of-v000002", "v000002", 100.0)
            client.score(GROUPS)
            client.score(GROUPS, version="canary")
            client.score(GROUPS, min_version="v000001")
        client.score(GROUPS)
    first, *scored, released, last = server.received
    assert (first.method, first.path, first.body) == ("POST", "/leases", {"label": "stable", "ttl_s": 60})
    assert [request.body.get("version") for request in scored] == ["v000002", "canary", "v000002"]
    assert (released.method, released.path) == ("DELETE", "/leases/of-v000002")
    assert "version" not in last.body


def test_the_inner_of_two_nested_leases_pins() -> None:
    with answering(by=api) as server, RewardClient(server.url) as client:
        with client.lease(version="v000002"), client.lease(version="v000001"):
            client.score(GROUPS)
        with client.lease(version="v000002"):
            client.score(GROUPS)
    assert [r.body["version"] for r in server.received if r.path == "/score"] == ["v000001", "v000002"]


def test_a_lease_pins_the_requests_of_its_own_thread_only() -> None:
    both_inside = threading.Barrier(3, timeout=30)
    found: dict[str, list[str]] = {}

    def score_leased(client: RewardClient, version: str) -> None:
        with client.lease(version=version):
            both_inside.wait()
            found[version] = [client.score(GROUPS).version for _ in range(5)]
            both_inside.wait()
        found[version].append(client.score(GROUPS).version)

    with answering(by=api) as server, RewardClient(server.url) as client:
        versions = ("v000001", "v000002")
        threads = [threading.Thread(target=score_leased, args=(client, version)) for version in versions]
        for thread in threads:
            thread.start()
        both_inside.wait()
        outside = client.score(GROUPS).version
        both_inside.wait()
        for thread in threads:
            thread.join()
    assert outside == "v000009"
    assert found == {version: [version] * 5 + ["v000009"] for version in versions}


def test_a_lease_pins_only_the_requests_of_its_own_client() -> None:
    with answering(by=api) as server:  # noqa: SIM117 (the server outlives both clients)
        with RewardClient(server.url) as client, RewardClient(server.url) as other:
            with client.lease(version="v000002"):
                other.score(GROUPS)
    assert "version" not in server.received[1].body


def test_leases_that_end_in_another_order_each_pin_until_their_own_end() -> None:
    with answering(by=api) as server, RewardClient(server.url) as client:
        first, second = client.lease(version="v000002"), client.lease(version="v000001")
        first.__enter__()
        second.__enter__()
        first.__exit__(None)
        client.score(GROUPS)
        second.__exit__(None)
    assert server.received[3].body["version"] == "v000001"


def test_a_lease_is_released_when_its_block_fails_and_the_error_of_the_block_is_raised() -> None:
    forbidden = error(403, "forbidden", "no")
    with (
        answering(LEASED, forbidden) as server,
        RewardClient(server.url) as client,
        pytest.raises(ZeroDivisionError),
        client.lease(version="v000002"),
    ):
        raise ZeroDivisionError
    assert server.received[-1].method == "DELETE"


def test_a_release_that_the_server_rejects_raises_an_error() -> None:
    forbidden = error(403, "forbidden", "no")
    with answering(LEASED, forbidden) as server, RewardClient(server.url) as client:
        lease = client.lease(version="v000002")
        with pytest.raises(ClientError) as refused:
            lease.release()
    assert refused.value.error_code == "forbidden"


def test_a_renewed_lease_has_its_new_expiry() -> None:
    renewed = Answer(200, {"lease": "lease-1", "version": "v000002", "expires": 200.0})
    with answering(LEASED, renewed) as server, RewardClient(server.url) as client:
        lease = client.lease(version="v000002")
        lease.renew(30)
    assert lease.expires == 200.0
    assert (server.received[-1].path, server.received[-1].body) == ("/leases/lease-1/renew", {"ttl_s": 30})


def test_label_calls_use_the_methods_and_paths_of_the_api() -> None:
    with answering(by=api) as server, RewardClient(server.url) as client:
        client.set_label("canary", "v000003", share=0.1)
        client.set_label("stable", "v000003")
        client.remove_label("stable")
        assert [label["label"] for label in client.labels()] == ["stable"]
        assert [lease["lease"] for lease in client.leases()] == ["of-v000009"]
    assert [(r.method, r.path, r.body) for r in server.received] == [
        ("PUT", "/labels/canary", {"version": "v000003", "share": 0.1}),
        ("PUT", "/labels/stable", {"version": "v000003"}),
        ("DELETE", "/labels/stable", None),
        ("GET", "/labels", None),
        ("GET", "/leases", None),
    ]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_does_not_share_its_parents_connection() -> None:
    with answering(Answer(200, SCORED)) as server, RewardClient(server.url) as client:
        server.RequestHandlerClass = KeepsAlive
        client.score(GROUPS)
        client.score(GROUPS)
        child = os.fork()
        if child == 0:
            try:
                client.score(GROUPS)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        client.score(GROUPS)
    parent, again, forked, last = (received.port for received in server.received)
    assert parent == again == last != forked
