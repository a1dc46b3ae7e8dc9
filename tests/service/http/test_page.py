"""The page's files: served without external content, and cached by browsers until they change."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from service.http.routes.page import CHARTS, FOLDER
from tests.processes import RedisProcess, Served, service_here
from tests.store import publish
from tests.tiny import Kind

PAGE = (FOLDER / "index.html").read_text()
FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture
def process(
    tmp_path: Path, redis_process: RedisProcess, checkpoint: Callable[[Kind], Path]
) -> Iterator[Served]:
    publish(tmp_path, checkpoint("bert"))
    with service_here(tmp_path, redis_process.url, METARM_SCORE_KEYS='["worker-key"]') as running:
        running.wait_ready()
        yield running


def test_the_page_and_its_files_need_no_key_and_forbid_external_content(process: Served) -> None:
    for path in ["/", *(f"/page/{name}" for name in FILES)]:
        answer = process.http.get(path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    kinds = {name: process.http.get(f"/page/{name}").headers["content-type"] for name in FILES}
    assert {kinds[name] for name in FILES if name.endswith(".js")} == {"text/javascript; charset=utf-8"}
    assert {kinds[name] for name in FILES if name.endswith(".css")} == {"text/css; charset=utf-8"}


def test_an_unchanged_file_is_answered_with_304(process: Served) -> None:
    first = process.http.get("/page/main.js")
    assert (first.headers["content-encoding"], first.headers["cache-control"]) == ("gzip", "no-cache")
    assert first.content == (FOLDER / "main.js").read_bytes()
    again = process.http.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = process.http.get("/page/main.js", headers={"If-None-Match": 'W/"other"'})
    assert other.status_code == 200
    plain = process.http.get("/page/main.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert (plain.content, plain.headers["etag"]) == (first.content, first.headers["etag"])


def test_the_chart_library_is_served_from_the_installed_package(process: Served) -> None:
    answer = process.http.get(f"/page/{CHARTS}")
    plotly = find_spec("plotly")
    assert plotly is not None
    assert plotly.origin is not None
    assert answer.content == (Path(plotly.origin).parent / "package_data" / CHARTS).read_bytes()
    assert len(gzip.compress(answer.content, 1)) < 2.5 * 2**20


@pytest.mark.parametrize("name", ["nothing.js", "..%2fsettings.py", "%2e%2e/settings.py"])
def test_files_outside_the_page_folder_are_not_served(process: Served, name: str) -> None:
    answer = process.http.get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_the_metrics_count_every_file_under_one_route(process: Served) -> None:
    for path in ("/", "/page/main.js", "/page/api.js", f"/page/{CHARTS}", "/page/nothing.js"):
        process.http.get(path)
    metrics = process.http.get("/metrics", headers={"Authorization": "Bearer worker-key"}).text
    routes = set(re.findall(r'rm_requests_total{route="([^"]*)"', metrics))
    assert routes - {"/ready", "/metrics"} == {"/", "/page/{name}"}


def test_the_page_references_exactly_the_existing_files_and_has_no_inline_code() -> None:
    named = re.findall(r'(?:href|src)="page/([^"]+)"', PAGE)
    imported = [
        name for file in FOLDER.glob("*.js") for name in re.findall(r'from "\./([^"]+)"', file.read_text())
    ]
    assert {*named, *imported} - set(FILES) == set()
    assert set(FILES) - {*named, *imported, "index.html"} == set()
    assert "style=" not in PAGE
    assert not re.search(r"<script(?![^>]*src)", PAGE)
    assert not re.search(r"\son\w+=", PAGE)


def test_every_element_id_in_the_scripts_exists_on_the_page() -> None:
    scripts = "\n".join(file.read_text() for file in FOLDER.glob("*.js"))
    named = re.findall(r'(?:byId|say|notice|state|options|new Chart)\(\s*"([a-z0-9-]+)"', scripts)
    ids = re.findall(r'\bid="([^"]+)"', PAGE)
    assert len(ids) == len(set(ids))
    assert [name for name in named if name not in ids] == []
