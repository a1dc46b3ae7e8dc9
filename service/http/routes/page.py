"""GET /: the page. Static files, for everybody; what it shows, it asks for as every other client does."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.http.page_files import INDEX

router = APIRouter(include_in_schema=False)
HEADERS = {
    # nothing from elsewhere, nothing inline, in nobody's frame
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for again: 304 while it is the same
    "Vary": "Accept-Encoding",
}


@router.get("/")
async def page(request: Request) -> Response:
    """The dashboard."""
    return await _answer(INDEX, request)


@router.get("/page/{name}")
async def file(name: str, request: Request) -> Response:
    """A file of the dashboard."""
    return await _answer(name, request)


async def _answer(name: str, request: Request) -> Response:
    found = await request.app.state.page.get(name)
    if found is None:
        raise HTTPException(404, f"the page has no file {name}")
    headers = {**HEADERS, "ETag": found.etag}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if found.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(found.gzipped, media_type=found.media_type, headers=headers)
    return Response(await asyncio.to_thread(found.content), media_type=found.media_type, headers=headers)
