"""Exceptions → HTTP answers: one JSON shape for every failure, its status, and the captured version."""

from __future__ import annotations

from typing import Any

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from metarm.errors import (
    InvalidRequestError,
    MalformedRequestError,
    MetaRMError,
    MethodNotAllowedError,
    NotFoundError,
    PayloadTooLargeError,
    SampleLogUnavailableError,
    UnauthorizedError,
)
from service.http.invalid_fields import invalid_fields
from service.http.middleware import ERROR_KEY, ID_KEY, REQUEST_ID
from service.http.pinning import captured_header

# the framework's own errors
HTTP_ERRORS = (MalformedRequestError, NotFoundError, MethodNotAllowedError, PayloadTooLargeError)
METHODS = ("DELETE", "GET", "POST", "PUT")
MAX_ECHO = 1000  # characters of a message, and of each text in the details
MAX_PATH = 100
MAX_LIST = 100  # entries of each list in the details


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
    if status == UnauthorizedError.status:
        sent = "authorization" in request.headers
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if sent else "Bearer"
    return JSONResponse({"error": _bounded(record)}, status, headers={**headers, **captured_header(request)})


def _bounded(value: Any) -> Any:
    """An error's record, whose texts may hold what the client sent: a name of 60 kB is cut."""
    if isinstance(value, str):
        return value if len(value) <= MAX_ECHO else f"{value[:MAX_ECHO]}…"
    if isinstance(value, dict):
        return {key: _bounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(each) for each in value[:MAX_LIST]]
    return value


async def _on_known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MetaRMError)  # noqa: S101 (registered for this class only)
    return _answer(request, error, error.status)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (registered for this class only)
    fields = invalid_fields(error)
    message = "; ".join(f"{field['field']}: {field['message']}" for field in fields)
    return await _on_known_error(request, InvalidRequestError(message, fields=fields))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for this class only)
    code = next((kind.code for kind in HTTP_ERRORS if kind.status == error.status_code), "http_error")
    message, headers = error.detail, dict(error.headers or {})
    if error.status_code == MethodNotAllowedError.status:
        headers["Allow"] = ", ".join(_allowed(request))
        message = f"{request.url.path} does not take {request.method}: send {headers['Allow']}"
    elif error.status_code == NotFoundError.status:
        message = f"there is no path {request.url.path[:MAX_PATH]!r}: /docs lists all paths"
    known = MetaRMError.from_wire({"code": code, "message": message})
    return _answer(request, known, error.status_code, **headers)


def _allowed(request: Request) -> list[str]:
    """The methods of the path; the framework names those of its first route only."""

    def served(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(dict(scope))[0] is Match.FULL for route in request.app.routes)

    methods = [method for method in METHODS if served(method)]
    return sorted([*methods, "HEAD"]) if "GET" in methods else methods


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
