"""What a tokenizer puts around and between two texts: its special tokens and their segments."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class PairFrame:
    """The special tokens that a tokenizer puts around and between two texts, and their segment ids."""

    before: list[int]
    between: list[int]
    after: list[int]
    first_segment: int
    between_segments: list[int]
    second_segment: int

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def frame_of(fast: Tokenizer) -> PairFrame:
    """The frame around an encoded pair of letters. Framing ids here gives the same ids as the tokenizer's
    post-processor, which would also build every overflowing window of a truncated text."""
    joined = fast.encode("a", "b")
    parts = joined.sequence_ids  # None for special tokens, else 0 or 1
    first, second = parts.index(0), parts.index(1)
    first_end = second - parts[:second][::-1].index(0)
    second_end = len(parts) - parts[::-1].index(1)
    ids, segments = joined.ids, joined.type_ids
    return PairFrame(
        before=ids[:first],
        between=ids[first_end:second],
        after=ids[second_end:],
        first_segment=segments[first],
        between_segments=segments[first_end:second],
        second_segment=segments[second],
    )
