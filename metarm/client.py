"""RewardClient for RL workers: one call scores a batch and names the version that produced it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol, Self, cast

import httpx

from metarm.errors import ClientError, MetaRMError
from metarm.records import FINISHED, PolicyStamp, ScoredGroup, ScoreResult

# the leases whose blocks the caller is in, the innermost last: each thread and each task has its own
_entered: ContextVar[tuple[Lease, ...]] = ContextVar("entered leases", default=())


MAX_PAUSE_S = 60.0  # between two attempts, whatever the server asks for


class Clock(Protocol):
    """The functions of the module `time` that a client uses."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class RewardClient:
    """A synchronous client. Thread-safe.

    Overload (503) and connection failures are retried `retries` times, after the pause that Retry-After
    requests, else after an exponentially growing one. A retried request has the same `request_id`, so that its
    samples are logged once. Every other failure raises ClientError.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = 180.0,
        retries: int = 5,
        clock: Clock = time,
    ) -> None:
        """`timeout_s` limits one HTTP request. `clock` measures and makes every pause between requests."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connect = partial(httpx.Client, base_url=base_url, timeout=timeout_s, headers=headers)
        self._http, self._process = self._connect(), os.getpid()
        self._retries = retries
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def score(
        self,
        groups: Sequence[Mapping[str, Any]],
        *,
        version: str | None = None,
        min_version: str | None = None,
        raw: bool = False,
        log: bool = True,
        policy: PolicyStamp | Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> ScoreResult:
        """Score groups `{"id"?, "prompt", "responses"}`.

        `version`, a name or a label, scores all groups; the default inside the block of a lease is the
        lease's version. Without a pin, a canary scores the prompts it takes, and their groups name it. `raw`
        adds the rewards before calibration. `policy`: the policy that wrote the responses, as a PolicyStamp
        or {"name", "step"}.
        """
        body: dict[str, Any] = {
            "groups": list(groups),
            "log": log,
            "request_id": request_id or uuid.uuid4().hex,
            "version": version or self._leased_version(),
            "min_version": min_version,
            "raw": raw or None,
            "policy": asdict(policy) if isinstance(policy, PolicyStamp) else policy,
        }
        answer = self._send("POST", "/score", _without_none(body))
        try:
            result = ScoreResult(answer["version"], tuple(_scored(g) for g in answer["groups"]))
        except (KeyError, TypeError) as error:
            raise _foreign_answer("it is no answer of POST /score") from error
        if [len(group.scores) for group in result.groups] != [len(group["responses"]) for group in groups]:
            raise _foreign_answer("its scores are not one for each response")
        return result

    def lease(self, *, version: str | None = None, label: str | None = None, ttl_s: float = 3600.0) -> Lease:
        """Keep `version`, or the version that `label` names, in memory for `ttl_s` seconds on every server.

        The block of `with client.lease(label="stable") as lease:` pins every `score` of this client to the
        lease's version and releases the lease at its end. It pins in its own thread (or asyncio task) only: in
        another thread pass `version=lease.version`. Renew the lease before `ttl_s` seconds have passed.
        """
        body = {"version": version, "label": label, "ttl_s": ttl_s}
        state = self._send("POST", "/leases", _without_none(body))
        return Lease(self, state["lease"], state["version"], state["expires"])

    def leases(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._send("GET", "/leases"))

    def renew(self, lease: str, ttl_s: float = 3600.0) -> dict[str, Any]:
        """Extend a lease to `ttl_s` seconds from now. Raises ClientError `unknown_lease` once it is over."""
        return self._send("POST", f"/leases/{lease}/renew", {"ttl_s": ttl_s})

    def release(self, lease: str) -> None:
        self._send("DELETE", f"/leases/{lease}")

    def labels(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._send("GET", "/labels"))

    def set_label(
        self, label: str, version: str, *, share: float | None = None, shadow: bool | None = None
    ) -> dict[str, Any]:
        """Create or move a label. `share` and `shadow` apply to the label `canary` only."""
        return self._send(
            "PUT", f"/labels/{label}", _without_none({"version": version, "share": share, "shadow": shadow})
        )

    def remove_label(self, label: str) -> None:
        self._send("DELETE", f"/labels/{label}")

    def ready(self) -> dict[str, Any]:
        """The answer of GET /ready. Raises ClientError while no model is loaded."""
        return self._send("GET", "/ready")

    def versions(self) -> dict[str, Any]:
        return self._send("GET", "/versions")

    def drift(self) -> dict[str, Any]:
        """Drift figures of the server's scores, and the watches over promoted versions."""
        return self._send("GET", "/drift")

    def activate(self, version: str) -> dict[str, Any]:
        """Make `version`, older or newer, the current one."""
        return self._send("POST", f"/versions/{version}/activate")

    def retrain(self, **options: Any) -> dict[str, Any]:
        """Start a retrain job. `options` change the trainer's defaults."""
        return self._send("POST", "/retrain", options)

    def job(self, job_id: str) -> dict[str, Any]:
        return self._send("GET", f"/retrain/{job_id}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._send("DELETE", f"/retrain/{job_id}")

    def wait_for_job(
        self,
        job_id: str,
        *,
        timeout_s: float = 900.0,
        poll_s: float = 0.5,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Poll until the job is published, rejected, failed or cancelled; return its last state.

        Raises TimeoutError after `timeout_s` seconds; the job itself continues.
        """
        deadline = self._clock.monotonic() + timeout_s
        while True:
            state = self.job(job_id)
            if on_progress is not None:
                on_progress(state)
            if state["status"] in FINISHED:
                return state
            if self._clock.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {state['status']} after {timeout_s:.0f} s")
            self._clock.sleep(poll_s)

    def _leased_version(self) -> str | None:
        """The version of the innermost lease of this client whose block the caller is in."""
        return next((lease.version for lease in reversed(_entered.get()) if lease._client is self), None)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if self._process != os.getpid():  # a child of fork must not share its parent's connections
            self._http, self._process = self._connect(), os.getpid()
        for attempt in range(self._retries + 1):
            last_try = attempt == self._retries
            try:
                response = self._http.request(method, path, json=body)
            except httpx.RequestError as error:  # no answer, or one that cannot be decoded
                if last_try:
                    message = f"{method} {path}: no answer from {self._http.base_url} ({error})"
                    raise ClientError(message, error_code="unreachable") from error
                self._clock.sleep(_pause_s(attempt))
                continue
            if response.status_code == 503 and not last_try:
                self._clock.sleep(_requested_pause_s(response) or _pause_s(attempt))
                continue
            return _answer(method, path, response)
        raise AssertionError("unreachable: the last try returns or raises")


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


def _foreign_answer(why: str) -> ClientError:
    return ClientError(f"POST /score: unreadable_answer: {why}", error_code="unreadable_answer")


def _scored(group: Mapping[str, Any]) -> ScoredGroup:
    return ScoredGroup(
        group["id"],
        tuple(group["scores"]),
        tuple(group["tokens"]),
        tuple(group["truncated"]),
        group["version"],
        tuple(group["raw"]) if group.get("raw") is not None else None,
    )


def _pause_s(attempt: int) -> float:
    return float(min(0.25 * 2**attempt, 5.0))


def _requested_pause_s(response: httpx.Response) -> float | None:
    """Retry-After in seconds, at most MAX_PAUSE_S; None if it is missing, or a date."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), MAX_PAUSE_S) if asked.isascii() and asked.isdigit() else None


def _answer(method: str, path: str, response: httpx.Response) -> dict[str, Any]:
    """The JSON body of a success. Raises ClientError with the server's code, message and details."""
    try:
        body: dict[str, Any] = response.json()
        if response.is_success:
            return body
        sent = MetaRMError.from_wire(body["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        sent = MetaRMError.from_wire({"code": "unreadable_answer", "message": response.text[:200]})
    status = response.status_code
    text = f"{method} {path}: {status} {sent.code}: {sent.message}"
    error = ClientError(text, http_status=status, error_code=sent.code)
    error.details = sent.details
    raise error
