"""RewardClient for RL workers: one call scores a batch and names the version that produced it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import httpx

from metarm.errors import ClientError
from metarm.records import FINISHED, ScoredGroup, ScoreResult


class RewardClient:
    """A synchronous client.

    Overload (503) and connection failures are retried `retries` times, waiting what the server
    asks for in Retry-After, else an exponentially growing pause. A retried request carries the
    same `request_id`, so its samples are logged once. Anything else raises ClientError: a reward
    that could not be computed is never a number.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = 180.0,
        retries: int = 5,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, headers=headers)
        self._retries = retries
        self._leased: list[str] = []  # the versions of the leases that were entered, the innermost last

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
        policy: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> ScoreResult:
        """Score groups `{"id"?, "prompt", "responses"}`.

        One version scores them all: `version`, a name or a label, or that of the lease whose block this
        is in; unpinned, groups of a canary's prompts are scored by the version they name. `raw` asks
        for the model's own rewards beside the calibrated scores.
        """
        body: dict[str, Any] = {
            "groups": list(groups),
            "log": log,
            "request_id": request_id or uuid.uuid4().hex,
            "version": version or (self._leased[-1] if self._leased else None),
            "min_version": min_version,
            "raw": raw or None,
            "policy": policy,
        }
        answer = self._send("POST", "/score", _given(body))
        return ScoreResult(answer["version"], tuple(_scored(g) for g in answer["groups"]))

    def lease(self, *, version: str | None = None, label: str | None = None, ttl_s: float = 3600.0) -> Lease:
        """Keep a version, or what a label names now, in memory for `ttl_s`, on every server of the Redis.

        With `with client.lease(label="stable") as lease:`, what this client scores inside the block is
        pinned to it, and the lease is given back at the end. Renew it before `ttl_s` have passed.
        """
        body = {"version": version, "label": label, "ttl_s": ttl_s}
        state = self._send("POST", "/leases", _given(body))
        return Lease(self, state["lease"], state["version"], state["expires"])

    def leases(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._send("GET", "/leases"))

    def renew(self, lease: str, ttl_s: float = 3600.0) -> dict[str, Any]:
        """Let a lease last `ttl_s` from now; ClientError with code `unknown_lease` once it is over."""
        return self._send("POST", f"/leases/{lease}/renew", {"ttl_s": ttl_s})

    def release(self, lease: str) -> None:
        self._send("DELETE", f"/leases/{lease}")

    def labels(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._send("GET", "/labels"))

    def set_label(
        self, label: str, version: str, *, share: float | None = None, shadow: bool | None = None
    ) -> dict[str, Any]:
        """Move a label; `share` and `shadow` are for `canary` alone."""
        return self._send(
            "PUT", f"/labels/{label}", _given({"version": version, "share": share, "shadow": shadow})
        )

    def remove_label(self, label: str) -> None:
        self._send("DELETE", f"/labels/{label}")

    def ready(self) -> dict[str, Any]:
        """What /ready says; raises ClientError while no model is loaded."""
        return self._send("GET", "/ready")

    def versions(self) -> dict[str, Any]:
        return self._send("GET", "/versions")

    def drift(self) -> dict[str, Any]:
        """What the server has seen of its own scores: drift figures, and the watches over promoted versions."""
        return self._send("GET", "/drift")

    def activate(self, version: str) -> dict[str, Any]:
        """Make `version` the current one: roll back or forward."""
        return self._send("POST", f"/versions/{version}/activate")

    def retrain(self, **options: Any) -> dict[str, Any]:
        """Start a retrain job with the trainer's defaults, changed by `options`."""
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

        Raises TimeoutError after `timeout_s`; the job itself goes on.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            state = self.job(job_id)
            if on_progress is not None:
                on_progress(state)
            if state["status"] in FINISHED:
                return state
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {state['status']} after {timeout_s:.0f} s")
            time.sleep(poll_s)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        for attempt in range(self._retries + 1):
            last_try = attempt == self._retries
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                if last_try:
                    message = f"{method} {path}: no answer from {self._http.base_url} ({error})"
                    raise ClientError(message, None, "unreachable") from error
                time.sleep(_pause_s(attempt))
                continue
            if response.status_code == 503 and not last_try:
                time.sleep(_asked_pause_s(response) or _pause_s(attempt))
                continue
            return _answer(method, path, response)
        raise AssertionError("unreachable: the last try returns or raises")


class Lease:
    """A version that the servers keep in memory until `expires` (Unix seconds). As a context, it pins what
    its client scores, and is given back at the end."""

    def __init__(self, client: RewardClient, id: str, version: str, expires: float) -> None:  # noqa: A002
        self._client = client
        self.id = id
        self.version = version
        self.expires = expires

    def renew(self, ttl_s: float = 3600.0) -> None:
        self.expires = self._client.renew(self.id, ttl_s)["expires"]

    def release(self) -> None:
        """Give it back; nothing where it is over already."""
        try:
            self._client.release(self.id)
        except ClientError as error:
            if error.error_code != "unknown_lease":
                raise

    def __enter__(self) -> Self:
        self._client._leased.append(self.version)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self._client._leased.remove(self.version)
        try:
            self.release()
        except ClientError:
            if kind is None:  # else the block's own error says more, and the lease ends by itself
                raise


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


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


def _asked_pause_s(response: httpx.Response) -> float | None:
    """Retry-After in seconds; None where it is missing or a date."""
    asked = response.headers.get("retry-after", "")
    return float(asked) if asked.isdigit() else None


def _answer(method: str, path: str, response: httpx.Response) -> dict[str, Any]:
    """The JSON body of a success; ClientError with the server's own code and message otherwise."""
    try:
        body: dict[str, Any] = response.json()
        if response.is_success:
            return body
        error = body["error"]
        code, message, details = error["code"], error["message"], error.get("details") or {}
    except (ValueError, KeyError, TypeError):
        code, message, details = "unreadable_answer", response.text[:200], {}
    text = f"{method} {path}: {response.status_code} {code}: {message}"
    raise ClientError(text, response.status_code, code, **details)
