"""A browser, and the whole system with keys and a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.demo_groups import demo_groups
from tests.page.chromium import MISSING, find_chromium
from tests.processes import HttpProcess, system
from tests.tiny import Kind

READER, ADMIN = "reader-key", "admin-key"


@pytest.fixture(scope="package")  # not session: while Playwright runs, no test can start an event loop
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            pytest.skip(MISSING)
        started = playwright.chromium.launch(executable_path=path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(
    browser: Browser, checkpoint: Callable[[Kind], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpProcess]:
    """`metarm up` on a tiny model, with a gate that accepts any trained candidate. Depends on `browser`, so
    that nothing starts if there is no browser."""
    folder = tmp_path_factory.mktemp("page")
    rows = [
        {"prompt": group["prompt"][:40], "chosen": "It is forty two.", "rejected": "Compare the two trains."}
        for group in demo_groups(120)
    ]
    preferences = folder / "pairs.jsonl"
    preferences.write_text("\n".join(json.dumps(row) for row in rows))
    settings = {
        "PREFERENCES": str(preferences),
        "METARM_MODEL": str(checkpoint("bert")),
        "METARM_MIN_GROUPS": "8",
        "METARM_GATE_TOLERANCE": "1",
        "METARM_GATE_MIN_GROUPS": "1000000",
        "METARM_WATCH_GROUPS": "0",
        "METARM_TUNE": "false",
        "METARM_SCORE_KEYS": json.dumps([READER]),
        "METARM_ADMIN_KEYS": json.dumps([ADMIN]),
    }
    with system(folder / "data", **settings) as process:
        process.wait_ready(240.0)
        process.http.headers["Authorization"] = f"Bearer {ADMIN}"
        yield process
