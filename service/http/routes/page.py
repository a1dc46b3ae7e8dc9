"""GET / and /page/{name}: the page's static files, which need no key. Its figures come from the JSON routes."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from service.http.route import Route

FOLDER = Path(__file__).parent.parent / "page"
CHARTS = "plotly.min.js"  # from the wheel of plotly, which is never imported
HEADERS = {
    # no content from other origins, nothing inline, no frame around the page
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # browsers keep a file and revalidate it: 304 while it is the same
    "Vary": "Accept-Encoding",
}


router = APIRouter(route_class=Route, include_in_schema=False)
_ours = StaticFiles(directory=FOLDER)
_plotly = StaticFiles(packages=[("plotly", "package_data")])


@router.get("/")
async def page(request: Request) -> Response:
    """The dashboard."""
    return await _answer(_ours, "index.html", request)


@router.get("/page/{name}")
async def file(name: str, request: Request) -> Response:
    """A file of the dashboard."""
    return await _answer(_plotly if name == CHARTS else _ours, name, request)


async def _answer(files: StaticFiles, name: str, request: Request) -> Response:
    """The file with the page's headers, compressed if the client accepts gzip; 304 where it has the file."""
    response = await files.get_response(name, request.scope)
    response.headers["ETag"] = f"W/{response.headers['ETag']}"  # weak: the same for both encodings
    if isinstance(response, FileResponse) and "gzip" in request.headers.get("accept-encoding", ""):
        tags = {key: response.headers[key] for key in ("ETag", "Last-Modified")}
        # GZipMiddleware would compress the charts' library again for each request: 0.2 s of CPU
        content = await run_in_threadpool(_gzipped, str(response.path), tags["ETag"])
        headers = {**tags, "Content-Encoding": "gzip"}
        response = Response(content, media_type=response.media_type, headers=headers)
    response.headers.update(HEADERS)
    return response


@lru_cache(maxsize=64)
def _gzipped(path: str, _tag: str) -> bytes:
    """The compressed content of a file. `_tag` is part of the key: a file that changes is read again."""
    return gzip.compress(Path(path).read_bytes(), 6, mtime=0)
