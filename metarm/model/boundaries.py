"""Where a tokenizer always splits: places from which on its tokens do not depend on the text to their left.

A place lies in a *transition*: before a character of one class, after a character of another. A tokenizer
splits at every place of a transition if

* the steps before the model read nothing to their left: by their kinds, and by a regex without look-behind;
* the model joins nothing across it: these steps split every text of a probe there, or no token of a BPE model
  contains it;
* texts of the probe that are encoded from such places on have the tokens of the whole texts.

Added tokens are found in the raw text before all this, so places inside of one do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from tokenizers import Encoding, Tokenizer, models

from metarm.model.boundary_probe import probe_texts

MOST_REFUSED = 64  # places inside of added tokens, in one search
SEARCHED_AT_ONCE = 10_000  # characters, in a millisecond: a search holds the GIL
ANY = "\0"
PUNCTUATION = r"!-/:-@\[-`{-~"


@dataclass(frozen=True, slots=True)
class Transition:
    """A place between two characters. `left` and `right` are character classes of a regex; `left` is empty for
    any character."""

    left: str
    right: str

    @property
    def pattern(self) -> str:
        return (f"(?<=[{self.left}])" if self.left else "") + f"(?=[{self.right}])"

    @property
    def inside(self) -> str:
        """The pattern of the transition inside of one of several texts that "\\0" separates."""
        return f"(?<=[{self.left}])(?=[{self.right}])" if self.left else f"(?<=[^\\0])(?=[{self.right}])"


# Each right character neither combines with the one to its left in a normal form nor is a mark of it.
TRANSITIONS = (
    Transition("", PUNCTUATION),
    Transition("", r" \t\n\r"),
    Transition("", "\u4e00-\u9fff"),
    Transition("!-~", " "),
    Transition("A-Za-z", " "),
    Transition("A-Za-z", r"\n"),
    Transition(r"\n", "A-Za-z\u4e00-\u9fff"),
    # without the apostrophe: some tokenizers keep "'s" with its word
    Transition("A-Za-z\u4e00-\u9fff", r"!-&(-/:-@\[-`{-~、。！，：；？"),
)

_STEPS = {  # each reads a character, a grapheme or a match of a pattern at a time, from left to right
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Prepend", "Strip", "Replace"),
    *("BertNormalizer", "Precompiled", "BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel"),
    *("CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split"),
}


class Boundaries:
    """The safe places of one tokenizer."""

    def __init__(self, transitions: list[Transition], added: set[str]) -> None:
        """`added` are the added tokens as they stand in a text."""
        self.transitions = transitions
        self._pattern = re.compile("|".join(one.pattern for one in transitions))
        self._added = added
        self._lengths = sorted({len(token) for token in added if len(token) > 1})

    def after(self, text: str, start: int) -> int | None:
        """The first safe place at `start` or later; None: none was found."""
        found = (
            match.start()
            for at in range(start, len(text), SEARCHED_AT_ONCE)
            for match in self._pattern.finditer(text, at, at + SEARCHED_AT_ONCE)
        )
        return next(
            (place for place in islice(found, MOST_REFUSED) if not self._in_added_token(text, place)), None
        )

    def _in_added_token(self, text: str, place: int) -> bool:
        return any(
            text[start : start + length] in self._added
            for length in self._lengths
            for start in range(max(0, place - length + 1), place)
        )


def safe_boundaries(tokenizer: Tokenizer) -> Boundaries | None:
    """The places where a tokenizer without truncation and padding always splits; None: no place is sure."""
    steps = [*_steps_of(tokenizer.normalizer), *_steps_of(tokenizer.pre_tokenizer)]
    added = tokenizer.get_added_tokens_decoder().values()
    if any(_reads_to_the_left(step) or _matches_any_length(step) for step in steps):
        return None
    if any(token.single_word for token in added):
        return None
    if isinstance(tokenizer.model, models.BPE) and tokenizer.model.dropout:
        return None
    normalized = _normalized_added(tokenizer)
    if any(re.search(r"[\s▁ĠĊ]", token.strip("▁ ")) for token in normalized):
        return None  # any white space may be normalized to theirs
    texts = probe_texts(tokenizer, [pattern for step in steps for pattern in _pattern_of(step).values()])
    takes_spaces = any(token.rstrip for token in added)  # those after it
    precompiled = any(step["type"] == "Precompiled" for step in steps)  # reads graphemes
    candidates = [
        one for one in TRANSITIONS if one.left or not (precompiled or (takes_spaces and " " in one.right))
    ]
    sure = _never_joined(tokenizer, steps, _not_in(normalized, candidates), texts)
    if not sure:
        return None
    wide = [one for one in sure if not one.left]
    if any(" " in one.right for one in wide):
        sure = wide  # they hold nearly all places of the others, and are found faster
    boundaries = Boundaries(sure, {token.content for token in added})
    return boundaries if all(_agrees(tokenizer, boundaries, text) for text in texts) else None


def first_token_from(encoding: Encoding, place: int) -> int:
    """The index of the first token that begins at a place of the text or after it. Special tokens that a
    post-processor adds and tokens without a character do not count."""
    for token in range(len(encoding)):
        span = encoding.token_to_chars(token)
        if span is not None and place <= span[0] < span[1]:
            return token
    return len(encoding)


def _steps_of(component: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer, each as in a tokenizer.json."""
    parts = [json.loads(component.__getstate__())] if component is not None else []
    while parts:
        part = parts.pop(0)
        if part["type"] == "Sequence":
            parts[:0] = part.get("normalizers") or part.get("pretokenizers") or []
        else:
            yield part


def _reads_to_the_left(step: dict[str, Any]) -> bool:
    """Whether a step's result may depend on text to the left of a place that no match of it spans."""
    regex = _pattern_of(step).get("Regex", "")
    outside = re.sub(r"(\\.)|\[\^?\]?(?:\\.|[^\]\\])*\]", lambda match: match[1] or "", regex)  # of its classes
    return step["type"] not in _STEPS or re.search(r"\(\?<|\\[ABGKYyb]|\^", outside) is not None


def _matches_any_length(step: dict[str, Any]) -> bool:
    """Whether a match of a step's regex may span words, however many: it repeats `.`, or a class such as [^<]
    or [\\w\\s] that has letters and white space."""
    regex = _pattern_of(step).get("Regex", "")
    parts = re.sub(r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", _kind_of_part, regex)
    repeats = r"(?:[*+]|\{\d*,\d{0}\}|\{\d*,\d{2,}\}|\{\d{2,}\})"
    return re.search(rf"[.{ANY}]{repeats}|\([^()]*[.{ANY}][^()]*\){repeats}", parts) is not None


def _kind_of_part(match: re.Match[str]) -> str:
    """ANY for a part of a regex that matches letters and white space alike, else a space."""
    part = match[0]
    spaces, letters = (
        re.search(kind, part) is not None for kind in (r"\\s| |\\p\{Z|\\[WD]", r"\\[wSD]|\\p\{L|[a-z]-")
    )
    return ANY if (not spaces if part.startswith("[^") else spaces and letters) else " "


def _pattern_of(step: dict[str, Any]) -> dict[str, str]:
    """The pattern of a step by its kind, "Regex" or "String"; empty if it has none."""
    pattern = step.get("pattern")
    return pattern if isinstance(pattern, dict) else {}


def _normalized_added(tokenizer: Tokenizer) -> list[str]:
    """The added tokens that are found in the normalized text, as they stand there and as they were declared."""
    normalizer = tokenizer.normalizer
    if not any(_steps_of(normalizer)):
        return []
    declared = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.normalized]
    return declared + [normalizer.normalize_str(content) for content in declared]


def _not_in(texts: list[str], transitions: list[Transition]) -> list[Transition]:
    """The transitions that lie inside of none of some texts, in which "▁" may stand for a space."""
    joined = "\0".join(texts).replace("▁", " ")
    return [one for one in transitions if not re.search(one.inside, joined)]


def _never_joined(
    tokenizer: Tokenizer, steps: list[dict[str, Any]], transitions: list[Transition], texts: list[str]
) -> list[Transition]:
    """The transitions that no token spans. A word piece or unigram model chooses the tokens of a whole word
    together, so for it every place must be split before the model."""
    model = tokenizer.model
    split = _always_split(tokenizer, transitions, texts)
    if not isinstance(model, models.BPE):
        return split
    by_regex = any(step["type"] == "Split" for step in steps)
    if split and not by_regex:
        return split
    byte_level = any(step["type"] == "ByteLevel" for step in steps)
    absent = _not_in(_surfaces(tokenizer, byte_level), transitions)
    if split:  # the probe shows what a regex does on its texts; the vocabulary shows it for the training texts
        return [one for one in split if one in absent]
    if model.continuing_subword_prefix or model.end_of_word_suffix or tokenizer.token_to_id("▁") is None:
        return []  # the first two mark the ends of words; an unknown space may be fused with its neighbours
    return [one for one in absent if one.left and one.right == " "]


def _always_split(tokenizer: Tokenizer, transitions: list[Transition], texts: list[str]) -> list[Transition]:
    """The transitions at which the steps before the model split every one of the texts."""
    splitter = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 (one token for each word)
    splitter.normalizer = tokenizer.normalizer
    splitter.pre_tokenizer = tokenizer.pre_tokenizer
    left = list(transitions)
    for text in texts:
        inner = bytearray(len(text) + 1)  # 1: inside of a word
        for start, end in splitter.encode(text).offsets:
            inner[start + 1 : end] = b"\1" * max(0, end - start - 1)
        left = [one for one in left if not any(inner[m.start()] for m in re.finditer(one.pattern, text))]
    return left


def _surfaces(tokenizer: Tokenizer, byte_level: bool) -> list[str]:
    """The tokens that the model makes of text, as they stand there."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = [token for token in tokenizer.get_vocab(with_added_tokens=False) if token not in added]
    if not byte_level:
        return tokens
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: byte for byte in printable} | {256 + n: byte for n, byte in enumerate(others)}
    joined = "\0".join(tokens).translate(table).encode("latin-1", "replace")
    return joined.decode("utf-8", "replace").split("\0")


def _agrees(tokenizer: Tokenizer, boundaries: Boundaries, text: str) -> bool:
    """Whether a text encoded from safe places on has the tokens of the whole."""
    whole = tokenizer.encode(text, add_special_tokens=False)
    step = max(1, len(text) // 5)
    places = [boundaries.after(text, at) for start in range(1, len(text), step) for at in (start, start + 1)]
    for cut, trusted in pairwise(dict.fromkeys(place for place in places if place is not None)):
        part = tokenizer.encode(text[cut:], add_special_tokens=False)
        if whole.ids[first_token_from(whole, trusted) :] != part.ids[first_token_from(part, trusted - cut) :]:
            return False
    return True
