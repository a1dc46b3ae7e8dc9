"""A tokenizer's chat template, rendered as of a fixed date, and the control tokens that a text may forge."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, time, tzinfo
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from metarm.errors import InvalidRequestError, InvalidVersionError
from metarm.model.portions import chars_of
from metarm.model.time_limit import TimeLimitExceededError, time_limit
from metarm.records import Prompt

CLOCK = "strftime_now"  # the function by which a template reads the date
RANDOM = re.compile(r"\|\s*random\b|\bfilter\s+random\b|['\"]random['\"]|\blipsum\b")  # of Jinja
SECONDS = re.compile(r"%%|%[-_0^#+]*\d*[EO]?s")  # since 1970, and the escape of %
RENDER_S = 10.0  # for the texts of one portion, which take some milliseconds
ADDED_CHARS = 2**20  # that a template may write beyond four times its messages; a second of tokenisation
BROKEN = (TemplateSyntaxError, SyntaxError, RecursionError, TimeLimitExceededError)  # whatever the messages are


class ChatTemplate:
    """Renders conversations. Thread-safe."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, on: date | None) -> None:
        """`on`: the date that the template is told instead of today's. Raises InvalidVersionError if this
        release of transformers does not take it, or the template does not compile or end."""
        self._tokenizer = tokenizer
        self._clock = _PinnedClock(on)
        self._encoding = threading.Lock()  # transformers sets options of the shared tokenizer
        if tokenizer.chat_template is not None:
            self._try_out()
        if RANDOM.search(str(tokenizer.chat_template)):
            raise InvalidVersionError(
                "its chat template writes random text: it gives a text different tokens each time"
            )
        if on is not None and CLOCK in str(tokenizer.chat_template):
            year = self._apply("", "", chat_template="{{ strftime_now('%Y') }}", tokenize=False)
            if year != f"{on:%Y}":
                raise InvalidVersionError(
                    "its chat template reads the date, which transformers does not let be pinned"
                )

    @contextmanager
    def time_limit(self) -> Iterator[None]:
        """Raises InvalidRequestError if the renderings inside the block take longer than RENDER_S."""
        try:
            with time_limit(RENDER_S):
                yield
        except TimeLimitExceededError as late:
            raise InvalidRequestError(
                f"the model's chat template rejects these messages: rendering them takes over {RENDER_S:g} s"
            ) from late

    def render(self, prompt: Prompt, response: str) -> str:
        """The conversation that ends with `response`. Raises InvalidRequestError if the template rejects it."""
        text = cast("str", self._apply(prompt, response, tokenize=False))
        limit = 4 * (chars_of(prompt) + len(response)) + ADDED_CHARS
        if len(text) > limit:
            raise InvalidRequestError(
                f"the model's chat template rejects these messages: it writes {len(text)} characters, "
                f"over {limit}"
            )
        return text

    def ids_of_plain_text(self, prompt: Prompt, response: str) -> list[int]:
        """The token ids of the conversation, whose only control tokens are the template's own: those in the
        messages are read as ordinary text (transformers' `sanitize_control_tokens`). Raises as `render`."""
        with self._encoding, self.time_limit():
            self.render(prompt, response)  # which bounds what is tokenised
            ids = self._apply(prompt, response, return_dict=False, sanitize_control_tokens=True)
        return cast("list[int]", ids)

    def _try_out(self) -> None:
        try:
            with self.time_limit():
                self.render("Who?", "I.")
        except InvalidRequestError as error:
            if isinstance(error.__cause__, BROKEN):
                cause = str(error.__cause__) or error.message
                raise InvalidVersionError(f"its chat template fails for every message: {cause:.500}") from error

    def _apply(self, prompt: Prompt, response: str, **options: Any) -> object:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        conversation = [*messages, {"role": "assistant", "content": response}]
        before = _clock_in_use.set(self._clock)
        try:
            return self._tokenizer.apply_chat_template(conversation, **options)
        except Exception as error:  # a template is a program: it may fail in any way
            cause = str(error) or type(error).__name__
            raise InvalidRequestError(
                f"the model's chat template rejects these messages: {cause:.500}"
            ) from error
        finally:
            _clock_in_use.reset(before)


class _PinnedClock:
    """What a template learns of the time: midnight UTC of one day."""

    def __init__(self, on: date | None) -> None:
        self._now = None if on is None else datetime.combine(on, time(), UTC)

    def strftime(self, form: str) -> str:
        if self._now is None:
            raise TemplateError("it reads the date, and none is pinned for this model")
        seconds = str(int(self._now.timestamp()))  # libc computes %s in the machine's time zone
        return self._now.strftime(SECONDS.sub(lambda found: "%%" if found[0] == "%%" else seconds, form))


_clock_in_use: ContextVar[_PinnedClock | None] = ContextVar("clock of the template", default=None)


class _Clock(datetime):
    """Takes the place of `datetime` where transformers defines `strftime_now` for templates. Its renderer takes
    no functions of ours."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return _clock_in_use.get() or super().now(tz)


chat_template_utils.datetime = _Clock  # type: ignore[attr-defined]


class ControlTokens:
    """Strings that a tokenizer reads as control tokens wherever they stand."""

    def __init__(self, contents: Iterable[str]) -> None:
        # by the first character, then the first two: most texts have none of the few beginnings
        self._by_start: dict[str, dict[str, list[str]]] = {}
        for content in contents:
            self._by_start.setdefault(content[0], {}).setdefault(content[:2], []).append(content)

    def found_in(self, text: str) -> bool:
        for first, starts in self._by_start.items():
            if first in text:
                for start, contents in starts.items():
                    if start in text and any(content in text for content in contents):
                        return True
        return False

    def found_in_prompt(self, prompt: Prompt) -> bool:
        if isinstance(prompt, str):
            return self.found_in(prompt)
        return any(self.found_in(m["role"]) or self.found_in(m["content"]) for m in prompt)
