"""API keys: which texts a client can send as `Authorization: Bearer KEY`, and a server can compare."""

from __future__ import annotations

import re

UNEXPANDED = re.compile(r"\$\{[^}]*\}?")  # ${NAME}, which a shell or Compose should have replaced
MAX_LENGTH = 4096  # of the 64 KiB that a request's headers may have
VISIBLE = re.compile(r"[!-~]+", re.ASCII)


def fault_of(key: str) -> str | None:
    """Why no client could use `key`, for people; None if one can. The key is not in it."""
    if not key.strip():
        return "is empty"
    if len(key) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if UNEXPANDED.search(key):
        return "has an unexpanded ${…}"
    if not key.isascii():
        return "has characters outside ASCII, which an HTTP header cannot carry"
    if not VISIBLE.fullmatch(key):
        return "has white space or control characters"
    return None
