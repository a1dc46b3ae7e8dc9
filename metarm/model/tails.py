"""The last tokens of a long text: exactly those of the whole text, from its end alone where that is sure."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from metarm.model.boundaries import Boundaries, first_token_from, safe_boundaries

CHARS_PER_TOKEN = 8  # of the first window: more than in most texts, so that one is enough
HEAD_CHARS = 1000  # more than the longest first token


class Tail(NamedTuple):
    """The encoding of a text from its character `start` on. 0: of the whole text."""

    encoding: Encoding
    start: int


class Tails:
    """Encodes the ends of texts by one tokenizer, which truncates and pads nothing. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._examined = False
        self._boundaries: Boundaries | None = None

    @staticmethod
    def is_long(text: str, count: int) -> bool:
        """Whether a text is so much longer than `count` tokens that its end may be enough."""
        return len(text) > 2 * CHARS_PER_TOKEN * count

    def encode_batch(self, texts: Sequence[str], count: int, *, add_special_tokens: bool) -> list[Tail]:
        """`encode` each text: the long ones one at a time, for they take memory."""
        short = [text for text in texts if not self.is_long(text, count)]
        encoded = iter(
            self._tokenizer.encode_batch(short, add_special_tokens=add_special_tokens) if short else ()
        )
        return [
            self.encode(text, count, add_special_tokens=add_special_tokens)
            if self.is_long(text, count)
            else Tail(next(encoded), 0)
            for text in texts
        ]

    def encode(self, text: str, count: int, *, add_special_tokens: bool) -> Tail:
        """Encode a text so that its last `count` tokens are those of the whole; a tail that does not start at 0
        has more than `count` such tokens. Costs at most twice what the whole costs."""
        window = CHARS_PER_TOKEN * count
        boundaries = self._safe_boundaries() if self.is_long(text, count) else None
        while boundaries is not None and 2 * window < len(text):
            tail = self._from(text, len(text) - window, boundaries, count, add_special_tokens)
            if tail is not None:
                return tail
            window *= 2
        return Tail(self._encoded(text, add_special_tokens), 0)

    def first_ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The id of a text's first token, in a list; an empty list if it has none."""
        head = len(text) - len(text.lstrip()) + HEAD_CHARS  # an added token may take the white space before it
        ids = self._encoded(text[:head], add_special_tokens).ids
        return (ids or self._encoded(text, add_special_tokens).ids)[:1]  # some tokenizers remove characters

    def _from(
        self, text: str, place: int, boundaries: Boundaries, count: int, add_special_tokens: bool
    ) -> Tail | None:
        """The tail from about a place on; None if it has too few tokens. The tokens before its second boundary
        may differ from those of the whole: some tokenizers put a space before the first word."""
        start = boundaries.after(text, place)
        exact = None if start is None else boundaries.after(text, start + 1)
        if start is None or exact is None:
            return None
        encoding = self._encoded(text[start:], add_special_tokens)
        if len(encoding) - first_token_from(encoding, exact - start) <= count:
            return None
        return Tail(encoding, start)

    def _encoded(self, text: str, add_special_tokens: bool) -> Encoding:
        """A text's encoding, without the GIL, which `Tokenizer.encode` holds."""
        return self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def _safe_boundaries(self) -> Boundaries | None:
        with self._lock:
            if not self._examined:
                self._boundaries = safe_boundaries(self._tokenizer)
                self._examined = True
            return self._boundaries
