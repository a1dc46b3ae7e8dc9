"""How long a client waits before it sends a call again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_PAUSE_S = 60.0  # whatever the server asks for
MAX_OWN_PAUSE_S = 5.0
JITTER = 0.25  # a pause is longer by a random share up to this: many workers must not come back at once
_random = random.SystemRandom()  # neither seeded by the caller nor shared after a fork


def pause_s(failures: int, asked_s: float | None) -> float:
    """Before the next attempt: what the server asks for, else growing with the failures so far."""
    shortest_s = asked_s or min(0.25 * 2 ** min(failures, 10), MAX_OWN_PAUSE_S)
    return min(shortest_s * (1 + JITTER * _random.random()), MAX_PAUSE_S)


def asked_pause_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After, a number of seconds or a date, in seconds from the answer's Date; None if it is missing or
    neither."""
    asked = headers.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return float(asked)
    when, now = _date(asked), _date(headers.get("date", "")) or datetime.now(UTC)
    return None if when is None else max(0.0, (when - now).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
        return date if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):  # whatever the parser meets in no date
        return None
