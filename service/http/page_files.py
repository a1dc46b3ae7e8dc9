"""The files of the page: ours from service/http/page/, the charts from the wheel of plotly.

All are kept compressed, as browsers take them. The charts' library is only read once somebody looks:
neither this nor the import of plotly (which is never imported) is a cost of scoring.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
CHARTS = "plotly.min.js"


@dataclass(frozen=True, slots=True)
class PageFile:
    """`etag` is of the content, whichever way it is sent."""

    gzipped: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        content = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        text = kind.startswith("text/") or kind == "image/svg+xml"
        return cls(
            gzip.compress(content, 6, mtime=0),
            f"{kind}; charset=utf-8" if text else kind,
            f'W/"{hashlib.sha256(content).hexdigest()[:20]}"',
        )

    def content(self) -> bytes:
        """Not compressed. Milliseconds for the charts' library."""
        return gzip.decompress(self.gzipped)


class PageFiles:
    """By name; what has no file has none here."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {path.name: PageFile.read(path) for path in sorted(folder.iterdir())}
        self._reading = asyncio.Lock()

    async def get(self, name: str) -> PageFile | None:
        if name == CHARTS and name not in self._files:
            async with self._reading:
                if name not in self._files:
                    self._files[name] = await asyncio.to_thread(PageFile.read, charts_library())
        return self._files.get(name)


def charts_library() -> Path:
    """Where the wheel of plotly keeps plotly.js. Found without importing it."""
    found = find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the package plotly, which brings the charts of the page, is not installed")
    return Path(found.submodule_search_locations[0]) / "package_data" / CHARTS
