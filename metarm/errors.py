"""The errors of this project, and their form on the wire.

    MetaRMError
    ├── InvalidRequestError        the request is invalid                   422
    │   └── NotEnoughDataError     too few samples or preferences           422
    ├── MalformedRequestError      no HTTP request, or no JSON in its body  400
    ├── UnsupportedMediaTypeError  the body has another type or encoding    415
    ├── RequestTimeoutError        a request did not arrive in time         408
    ├── PayloadTooLargeError       over a size limit                        413
    ├── HeadersTooLargeError       request line and headers over the limit  431
    ├── NotFoundError              no such path                             404
    ├── MethodNotAllowedError      the path has other methods               405
    ├── UnknownVersionError        no such version                          404
    ├── UnknownJobError            no such retrain job                      404
    ├── UnknownLabelError          no such label                            404
    ├── UnknownLeaseError          no such lease, or it is over             404
    ├── UnauthorizedError          no API key, or an unknown one            401
    ├── ForbiddenError             the API key does not permit this         403
    ├── VersionUnavailableError    the pinned version cannot be served      409
    ├── JobConflictError           another retrain is queued or running     409
    ├── TooManyLeasesError         the limit of leases is reached           409
    ├── TooManyLabelsError         the limit of labels is reached           409
    ├── CutOverAbortedError        some server could not take a version     409
    ├── ClientDisconnectedError    the client left before the answer        499
    ├── OverloadedError            the queue is full                        503
    ├── NotReadyError              no model is loaded yet                   503
    ├── TrainerUnavailableError    no trainer is running                    503
    ├── SampleLogUnavailableError  Redis does not answer                    503
    ├── ReadOnlyStoreError         this process may not write versions      503
    ├── InvalidVersionError        a checkpoint fails its checks            500
    ├── NonFiniteScoreError        the model returned NaN or infinity       500
    ├── TrainingError              a run cannot continue (NaN loss, …)      500
    │   └── JobCancelledError      a client cancelled the job               500
    ├── ConfigurationError         a setting or the environment is wrong    500
    └── ClientError                RewardClient: a refusal, or no answer

`status` is the HTTP status. `code` is the name that programs read, `details` holds figures for them.
`retry_after_s` is set if a repeated request may succeed. One codec serves every wire: the body of an HTTP
error, the trainer's answers through Redis, and the `error` of a job's record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from reprlib import repr as short
from typing import Any, ClassVar

MAX_TEXT = 10_000  # characters of a code or a message that another process sent
EXIT_CONFIGURATION = 78  # sysexits' EX_CONFIG: starting again would not help


class MetaRMError(Exception):
    """Base of all errors that this project raises. `message` is written for people.

    Every class takes the same arguments, so that `from_wire` can rebuild any of them.
    """

    status: ClassVar[int] = 500
    code: str = "internal_error"
    retry_after_s: int | None = None  # None: a repeated request would probably fail again

    def __init__(self, message: str, *, retry_after_s: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def to_wire(self) -> dict[str, Any]:
        """{"code", "message"}, with "details" and "retry_after_s" if the error has them."""
        record: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            record["details"] = self.details
        if self.retry_after_s is not None:
            record["retry_after_s"] = self.retry_after_s
        return record

    @staticmethod
    def from_wire(record: Mapping[str, Any]) -> MetaRMError:
        """The inverse of `to_wire`. A code that no class has gives a MetaRMError with that code.

        Raises ValueError for anything that is not an error record.
        """
        try:
            code, message = record["code"], record["message"]
            retry_after_s, details = record.get("retry_after_s"), record.get("details")
        except (KeyError, TypeError, AttributeError) as unreadable:
            raise ValueError(f"not an error record: {short(record)}") from unreadable
        texts = isinstance(code, str) and code != "" and isinstance(message, str)
        pause = retry_after_s is None or (type(retry_after_s) is int and retry_after_s >= 0)
        if not (texts and pause and (details is None or isinstance(details, dict))):
            raise ValueError(f"not an error record: {short(record)}")
        kind = next((kind for kind in _with_subclasses(MetaRMError) if kind.code == code), MetaRMError)
        error = kind(message[:MAX_TEXT], retry_after_s=retry_after_s)
        error.code, error.details = code[:MAX_TEXT], dict(details or {})
        return error

    @staticmethod
    def unexpected(error: Exception) -> MetaRMError:
        """An internal error that names an unexpected exception."""
        return MetaRMError(f"{type(error).__name__}: {error}")


def _with_subclasses(kind: type[MetaRMError]) -> Iterator[type[MetaRMError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)


class InvalidRequestError(MetaRMError):
    status = 422
    code = "invalid_request"


class NotEnoughDataError(InvalidRequestError):
    code = "not_enough_data"


class MalformedRequestError(MetaRMError):
    status = 400
    code = "malformed_request"


class UnsupportedMediaTypeError(MetaRMError):
    status = 415
    code = "unsupported_media_type"


class RequestTimeoutError(MetaRMError):
    status = 408
    code = "request_timeout"


class PayloadTooLargeError(MetaRMError):
    """A smaller request would pass. `details` has the `limit`, its `setting`, and the `group` if that group
    alone is over the limit."""

    status = 413
    code = "payload_too_large"

    @staticmethod
    def over(limit: int, setting: str, what: str, **details: Any) -> PayloadTooLargeError:
        """`what` the request has too much of, such as "4097 responses in one request"."""
        message = f"{what}: send at most {limit} ({setting})"
        return PayloadTooLargeError(message, limit=limit, setting=setting, **details)


class NotFoundError(MetaRMError):
    status = 404
    code = "not_found"


class MethodNotAllowedError(MetaRMError):
    status = 405
    code = "method_not_allowed"


class HeadersTooLargeError(MetaRMError):
    status = 431
    code = "headers_too_large"


class UnknownVersionError(MetaRMError):
    status = 404
    code = "unknown_version"


class UnknownJobError(MetaRMError):
    status = 404
    code = "unknown_job"


class UnknownLabelError(MetaRMError):
    status = 404
    code = "unknown_label"


class UnknownLeaseError(MetaRMError):
    status = 404
    code = "unknown_lease"


class UnauthorizedError(MetaRMError):
    status = 401
    code = "unauthorized"


class ForbiddenError(MetaRMError):
    status = 403
    code = "forbidden"


class VersionUnavailableError(MetaRMError):
    status = 409
    code = "version_unavailable"


class JobConflictError(MetaRMError):
    status = 409
    code = "job_running"


class TooManyLeasesError(MetaRMError):
    status = 409
    code = "too_many_leases"


class TooManyLabelsError(MetaRMError):
    status = 409
    code = "too_many_labels"


class CutOverAbortedError(MetaRMError):
    """All servers stay on the version they had. `retry_after_s` is set if no server refused the new version,
    but one was too slow or another cut-over was running."""

    status = 409
    code = "cut_over_aborted"


class ClientDisconnectedError(MetaRMError):
    """Nobody receives it: it is for the metrics and the log."""

    status = 499  # as in nginx: HTTP has no status for this
    code = "client_disconnected"


class OverloadedError(MetaRMError):
    """`details` repeats `retry_after_s`, for clients that read no headers."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int | None = None, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        if retry_after_s is not None:
            self.details = {"retry_after_s": retry_after_s, **details}


class NotReadyError(MetaRMError):
    status = 503
    code = "not_ready"
    retry_after_s = 2


class TrainerUnavailableError(MetaRMError):
    status = 503
    code = "trainer_unavailable"
    retry_after_s = 2


class SampleLogUnavailableError(MetaRMError):
    status = 503
    code = "sample_log_unavailable"
    retry_after_s = 2


class ReadOnlyStoreError(MetaRMError):
    status = 503
    code = "store_read_only"


class InvalidVersionError(MetaRMError):
    code = "invalid_version"


class NonFiniteScoreError(MetaRMError):
    code = "non_finite_score"


class TrainingError(MetaRMError):
    code = "training_failed"


class JobCancelledError(TrainingError):
    code = "cancelled"


class ConfigurationError(MetaRMError):
    code = "configuration_error"


class ClientError(MetaRMError):
    """A request to the server failed. `http_status` is None if no answer came.

    `error_code` is the `code` of the server's error, or the client's own: `unreachable`, `unreadable_answer`,
    `invalid_request` (what the caller passed cannot be sent), `deadline_exceeded` (before a request, or during
    one), `client_closed`.
    """

    code = "client_error"

    def __init__(
        self, message: str, *, http_status: int | None = None, error_code: str = code, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.http_status = http_status
        self.error_code = error_code
