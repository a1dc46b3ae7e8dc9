"""Errors → answers: every failure has one shape and its status, and names the version that it met."""

from __future__ import annotations

from typing import Any

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from metarm.errors import MetaRMError, PayloadTooLargeError, SampleLogUnavailableError
from service.http.middleware import ERROR_KEY, ID_KEY, REQUEST_ID
from service.http.pinning import header_of_captured

# codes of the framework's own refusals
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


def _error(
    request: Request, status: int, code: str, message: str, details: Any = None, **headers: str
) -> JSONResponse:
    request.scope[ERROR_KEY] = code
    body: dict[str, Any] = {"code": code, "message": message}
    if details:
        body["details"] = details
    return JSONResponse({"error": body}, status, headers={**headers, **header_of_captured(request)})


async def _on_known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MetaRMError)  # noqa: S101 (registered for this class only)
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return _error(request, error.status, error.code, error.message, error.details, **headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for this class only)
    # the input is not echoed: it may be large, or secret
    fields = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
    message = "; ".join(f"{f['field']}: {f['message']}" for f in fields[:5])
    return _error(request, 422, "invalid_request", message, {"fields": fields[:50]})


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class only)
    code = HTTP_CODES.get(error.status_code, "http_error")
    return _error(request, error.status_code, code, error.detail, **(error.headers or {}))


async def _on_redis_error(request: Request, error: Exception) -> Response:
    unavailable = SampleLogUnavailableError(f"Redis does not answer: {error}")
    return await _on_known_error(request, unavailable)


async def _on_unexpected_error(request: Request, error: Exception) -> Response:
    message = f"{type(error).__name__}; the server's log has the rest"
    # answered outside the middleware that names the request
    id_ = {REQUEST_ID: request.scope[ID_KEY]} if ID_KEY in request.scope else {}
    # the web server closes the connection of a request that raised: its client must open another one
    return _error(request, 500, "internal_error", message, Connection="close", **id_)
