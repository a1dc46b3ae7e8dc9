"""RewardClient for RL workers: one call scores a batch and names the version that produced it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, Self

from metarm import answers
from metarm.answers import Answer, checked, checked_list, equal_to
from metarm.calls import MAX_REQUEST_S, Call, Calls, Clock, checked_seconds, path, refused
from metarm.errors import ClientError
from metarm.records import FINISHED, PolicyStamp, ScoreResult
from metarm.score_parts import PartedScore, RefusedSizes, checked_groups

LAST_POLL_S = 5.0  # the last answer that wait_for_job waits for may take that long

# the leases whose blocks the caller is in, the innermost last: each thread and each task has its own
_entered: ContextVar[tuple[Lease, ...]] = ContextVar("entered leases", default=())


class RewardClient:
    """A synchronous client. Thread-safe, and usable after a fork.

    Every failure raises ClientError (its `error_code` says which), also an answer that is not of the documented
    shape. A call is sent again, at most `retries` times and until `deadline_s`, where that can help: after a
    failed connection and the statuses 408, 429, 502, 503 and 504, with pauses as long as Retry-After asks for
    (at most 60 s), else growing from 0.25 s to 5 s. `retrain`, `activate` and `lease` are not sent again if the
    server may have carried them out: the answer was lost, or a proxy answered 502 or 504. A repeated `score`
    has the same `request_id`, so that its samples are logged once.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        deadline_s: float = 1800.0,
        retries: int = 5,
        clock: Clock = time,
    ) -> None:
        """`timeout_s` limits one HTTP request, and must leave a server time to score as much as one request may
        hold; `deadline_s` limits one call, with all its requests and pauses (math.inf: no limit). `clock`
        measures and makes every pause between requests.

        Raises ClientError `invalid_request` for a base URL or key that no request can be sent with.
        """
        limits = {"timeout_s": timeout_s, "deadline_s": deadline_s}
        self._calls = Calls(base_url, api_key, **limits, retries=retries, clock=clock)
        self._clock = clock
        self._refused_sizes = RefusedSizes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; every later call raises ClientError `client_closed`."""
        self._calls.close()

    def score(
        self,
        groups: Iterable[Mapping[str, Any]],
        *,
        version: str | None = None,
        min_version: str | None = None,
        raw: bool = False,
        log: bool = True,
        policy: PolicyStamp | Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> ScoreResult:
        """Score groups `{"id"?, "prompt", "responses"}`, as many as wanted. An exception of an iterator that
        the caller passes is raised as it is.

        `version`, a name or a label, scores all groups; the default inside the block of a lease is the
        lease's version. Without a pin, a canary scores the prompts it takes, and their groups name it. `raw`
        adds the rewards before calibration. `policy`: the policy that wrote the responses, as a PolicyStamp
        or {"name", "step"}.

        Groups that the server refuses as too large (413) are halved until it takes them, and the parts sent one
        after the other; the result is that of one request, with one version at the top. If the server swaps in
        between, the version of the first part scores the rest as well, a canary's prompts included; if that
        version is gone, the current one scores all parts again. The parts have request ids of their own, made
        of `request_id`. A single group that is too large is divided by its responses: they get their scores
        from one version, and are logged as several groups of the prompt.
        """
        options = {
            "log": log,
            "request_id": request_id or uuid.uuid4().hex,
            "version": version or self._leased_version(),
            "min_version": min_version,
            "raw": raw or None,
            "policy": asdict(policy) if isinstance(policy, PolicyStamp) else policy,
        }
        for name in ("request_id", "version", "min_version"):
            if not isinstance(options[name], str | None):
                raise refused(f"{name} is {options[name]!r:.200}, and no text")
        deadline = self._calls.deadline()

        def send(body: Mapping[str, Any]) -> Answer:
            return self._send(Call("POST", "/score", body), deadline)

        return PartedScore(checked_groups(groups), _without_none(options), send, self._refused_sizes).result()

    def lease(self, *, version: str | None = None, label: str | None = None, ttl_s: float = 3600.0) -> Lease:
        """Keep `version`, or the version that `label` names, else the current one, in memory for `ttl_s`
        seconds on every server.

        The block of `with client.lease() as lease:` pins every `score` of this client to the lease's version
        and releases the lease at its end. It pins in its own thread (or asyncio task) only: in another thread
        pass `version=lease.version`. Renew the lease before `ttl_s` seconds have passed. A lease whose answer
        is lost stays in force until then.
        """
        body = _without_none({"version": version, "label": label, "ttl_s": ttl_s})
        fields = answers.LEASE if version is None else {**answers.LEASE, "version": equal_to(version)}
        state = checked(self._send(Call("POST", "/leases", body, repeatable=False)), fields)
        return Lease(self, state["lease"], state["version"], state["expires"])

    def leases(self) -> list[dict[str, Any]]:
        return checked_list(self._send(Call("GET", "/leases")), answers.LEASE)

    def renew(self, lease: str, ttl_s: float = 3600.0) -> dict[str, Any]:
        """Extend a lease to `ttl_s` seconds from now. Raises ClientError `unknown_lease` once it is over."""
        answer = self._send(Call("POST", path("leases", lease, "renew"), {"ttl_s": ttl_s}))
        return checked(answer, {**answers.LEASE, "lease": equal_to(lease)})

    def release(self, lease: str) -> None:
        answer = self._calls.send(Call("DELETE", path("leases", lease), gone="unknown_lease"))
        if answer is not None:
            checked(answer, {"lease": equal_to(lease)})

    def labels(self) -> list[dict[str, Any]]:
        return checked_list(self._send(Call("GET", "/labels")), answers.LABEL)

    def set_label(
        self, label: str, version: str, *, share: float | None = None, shadow: bool | None = None
    ) -> dict[str, Any]:
        """Create or move a label. `share` and `shadow` apply to the label `canary` only."""
        body = _without_none({"version": version, "share": share, "shadow": shadow})
        answer = self._send(Call("PUT", path("labels", label), body))
        return checked(answer, {"label": equal_to(label), "version": equal_to(version)})

    def remove_label(self, label: str) -> None:
        answer = self._calls.send(Call("DELETE", path("labels", label), gone="unknown_label"))
        if answer is not None:
            checked(answer, {"label": equal_to(label)})

    def ready(self) -> dict[str, Any]:
        """The answer of GET /ready. Raises ClientError while no model is loaded."""
        return checked(self._send(Call("GET", "/ready")), answers.READY)

    def versions(self) -> dict[str, Any]:
        return checked(self._send(Call("GET", "/versions")), answers.VERSIONS)

    def drift(self) -> dict[str, Any]:
        """Drift figures of the server's scores, and the watches over promoted versions."""
        return checked(self._send(Call("GET", "/drift")), answers.DRIFT)

    def activate(self, version: str) -> dict[str, Any]:
        """Make `version`, older or newer, the current one."""
        call = Call("POST", path("versions", version, "activate"), repeatable=False)
        return checked(self._send(call), answers.ACTIVATED)

    def retrain(self, *, reuse: str | None = None, **options: Any) -> dict[str, Any]:
        """Start a retrain job. `options` change the trainer's defaults. `reuse`: a job that has ended, whose
        samples are used again with all newer ones."""
        call = Call("POST", "/retrain", {**options, **_without_none({"reuse": reuse})}, repeatable=False)
        return checked(self._send(call), answers.ACCEPTED_JOB)

    def job(self, job_id: str) -> dict[str, Any]:
        return self._job("GET", job_id)

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._job("DELETE", job_id)

    def wait_for_job(
        self,
        job_id: str,
        *,
        timeout_s: float = 900.0,
        poll_s: float = 0.5,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Poll until the job is published, rejected, failed or cancelled; return its last state.

        A server that is away or overloaded meanwhile is asked again. Raises TimeoutError after `timeout_s`
        seconds, if need be with the last ClientError as its cause; the job itself continues.
        """
        deadline = self._clock.monotonic() + checked_seconds("timeout_s", timeout_s, or_none=True)
        poll_s = min(checked_seconds("poll_s", poll_s, or_none=True), MAX_REQUEST_S)
        status = "of unknown status"
        while True:
            failure, pause_s = None, poll_s
            try:
                state = self._job("GET", job_id, min(self._calls.deadline(), deadline + LAST_POLL_S))
            except ClientError as error:
                if error.retry_after_s is None and error.error_code != "deadline_exceeded":
                    raise
                failure, pause_s = error, max(poll_s, error.retry_after_s or 0)
            else:
                status = state["status"]
                if on_progress is not None:
                    on_progress(state)
                if status in FINISHED:
                    return state
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"job {job_id} is still {status} after {timeout_s:.0f} s") from failure
            self._clock.sleep(min(pause_s, left_s))

    def _job(self, method: str, job_id: str, deadline: float | None = None) -> dict[str, Any]:
        answer = self._send(Call(method, path("retrain", job_id)), deadline)
        return checked(answer, {**answers.JOB, "job": equal_to(job_id)})

    def _leased_version(self) -> str | None:
        """The version of the innermost lease of this client whose block the caller is in."""
        return next((lease.version for lease in reversed(_entered.get()) if lease._client is self), None)

    def _send(self, call: Call, deadline: float | None = None) -> Answer:
        answer = self._calls.send(call, deadline)
        assert answer is not None  # noqa: S101 (None only answers a call with `gone`)
        return answer


class Lease:
    """A version that the servers keep in memory until `expires` (Unix time in seconds). As a context manager
    it pins its client's scores to the version, and is released at the end."""

    def __init__(self, client: RewardClient, id: str, version: str, expires: float) -> None:  # noqa: A002
        self._client = client
        self.id = id
        self.version = version
        self.expires = expires

    def renew(self, ttl_s: float = 3600.0) -> None:
        self.expires = self._client.renew(self.id, ttl_s)["expires"]

    def release(self) -> None:
        """End the lease; does nothing if it is already over."""
        try:
            self._client.release(self.id)
        except ClientError as error:
            if error.error_code != "unknown_lease":
                raise

    def __enter__(self) -> Self:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        _entered.set(tuple(lease for lease in _entered.get() if lease is not self))
        try:
            self.release()
        except ClientError:
            if kind is None:  # an error of the block matters more, and the lease expires
                raise


def _without_none(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
