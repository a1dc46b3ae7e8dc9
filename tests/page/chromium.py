"""The installed Chromium for tests in a real browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "TEST_CHROMIUM"


def find_chromium(playwright: Playwright) -> str | None:
    """Return the browser that the environment names, one on PATH, or the one that `playwright install`
    installed."""
    candidates = [os.environ.get(VARIABLE), *map(shutil.which, NAMES), playwright.chromium.executable_path]
    return next((path for path in candidates if path and Path(path).exists()), None)


MISSING = (
    "no Chromium: `apt-get install chromium` (Debian, as root), `python -m playwright install chromium`, "
    f"or one named in {VARIABLE}"
)
