"""Exceptions → HTTP answers: one JSON shape for every failure, its status, and the captured version."""

from __future__ import annotations

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from metarm.errors import InvalidRequestError, MetaRMError, PayloadTooLargeError, SampleLogUnavailableError
from service.http.middleware import ERROR_KEY, ID_KEY, REQUEST_ID
from service.http.pinning import captured_header

# codes for the framework's own errors
HTTP_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: PayloadTooLargeError.code,
}


def answer_errors(app: FastAPI) -> None:
    """Answer every error that reaches the app."""
    app.add_exception_handler(MetaRMError, _on_known_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(redis.RedisError, _on_redis_error)
    app.add_exception_handler(Exception, _on_unexpected_error)


def _answer(request: Request, error: MetaRMError, status: int, **headers: str) -> JSONResponse:
    request.scope[ERROR_KEY] = error.code
    record = error.to_wire()
    retry_after_s = record.pop("retry_after_s", None)  # a header in HTTP
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return JSONResponse({"error": record}, status, headers={**headers, **captured_header(request)})


async def _on_known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MetaRMError)  # noqa: S101 (registered for this class only)
    return _answer(request, error, error.status)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for this class only)
    # the input is not echoed: it may be large, or secret
    fields = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
    message = "; ".join(f"{f['field']}: {f['message']}" for f in fields[:5])
    return await _on_known_error(request, InvalidRequestError(message, fields=fields[:50]))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class only)
    code = HTTP_CODES.get(error.status_code, "http_error")
    known = MetaRMError.from_wire({"code": code, "message": error.detail})
    return _answer(request, known, error.status_code, **(error.headers or {}))


async def _on_redis_error(request: Request, error: Exception) -> Response:
    refused = isinstance(error, redis.ResponseError)  # such as: full, a replica, a key of another type
    what = "Redis refuses a command" if refused else "Redis does not answer"
    return await _on_known_error(request, SampleLogUnavailableError(f"{what}: {error}"))


async def _on_unexpected_error(request: Request, error: Exception) -> Response:
    known = MetaRMError(f"{type(error).__name__}; the server's log has the details")
    # this answer bypasses the middleware that names the request
    id_ = {REQUEST_ID: request.scope[ID_KEY]} if ID_KEY in request.scope else {}
    # the web server closes the connection after an unexpected error: the client has to open another
    return _answer(request, known, known.status, Connection="close", **id_)
