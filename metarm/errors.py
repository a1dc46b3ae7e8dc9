"""Every error this project raises on purpose.

    MetaRMError
    ├── InvalidRequestError        what was asked makes no sense            422
    │   └── NotEnoughDataError     too few samples or preferences           422
    ├── PayloadTooLargeError       over a size limit                        413
    ├── UnknownVersionError        no such version                          404
    ├── UnknownJobError            no such retrain job                      404
    ├── UnknownLabelError          no such label                            404
    ├── UnknownLeaseError          no such lease, or no longer              404
    ├── UnauthorizedError          no key, or one that is not known         401
    ├── ForbiddenError             the key has no right to do this          403
    ├── VersionUnavailableError    the pinned version cannot be served      409
    ├── JobConflictError           another retrain is running               409
    ├── TooManyLeasesError         the leases allowed are all taken         409
    ├── CutOverAbortedError        not every server could take a version    409
    ├── OverloadedError            the queue is full; come back later       503
    ├── NotReadyError              no model is loaded yet                   503
    ├── TrainerUnavailableError    no trainer is running                    503
    ├── SampleLogUnavailableError  Redis does not answer                    503
    ├── ReadOnlyStoreError         this process may not write versions      503
    ├── InvalidVersionError        a checkpoint fails its checks            500
    ├── NonFiniteScoreError        the model answered NaN or infinity       500
    ├── TrainingError              a run cannot go on (NaN loss, …)         500
    │   └── JobCancelledError      someone asked it to stop                 500
    ├── ConfigurationError         a setting or environment is wrong        500
    └── ClientError                what RewardClient raises: the server's answer, or none

The HTTP status stands beside each class once, as `status`; `code` is the machine-readable
name in the JSON error body. `details` holds figures a program may act on.
"""

from __future__ import annotations

from typing import Any, ClassVar

EXIT_CONFIGURATION = 78  # sysexits' EX_CONFIG: starting again would not help


class MetaRMError(Exception):
    """Base of all errors raised on purpose. `message` is written for the person who reads it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry_after_s: int | None = None  # sent as the Retry-After header where asking again may help

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequestError(MetaRMError):
    status = 422
    code = "invalid_request"


class NotEnoughDataError(InvalidRequestError):
    code = "not_enough_data"


class PayloadTooLargeError(MetaRMError):
    status = 413
    code = "payload_too_large"


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


class CutOverAbortedError(MetaRMError):
    """All servers stay on the version they had. `retry_after_s` is set where nobody refused the new one:
    some server was too slow, or another cut-over was under way."""

    status = 409
    code = "cut_over_aborted"

    def __init__(self, message: str, retry_after_s: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class OverloadedError(MetaRMError):
    status = 503
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


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
    """The server refused or did not answer. `http_status` is None where no answer came."""

    code = "client_error"

    def __init__(self, message: str, http_status: int | None, error_code: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.http_status = http_status
        self.error_code = error_code
