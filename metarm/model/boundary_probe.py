"""Texts on which a tokenizer shows where it splits: of many scripts, deliberately odd, always the same ones."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from tokenizers import Tokenizer

TEXTS = 100
PIECES = 60  # in a text

_PIECES = (
    *("the", "answer", "I", "USA", "aB", "x", "don't", "We'LL", "it's", "e.g.", "New York", "a_b", "http://a.b/c?d"),
    *("Donaudampfschiff" * 10, "z" * 130, "A" * 7, "QUJDREVG+/8=", "3", "2026", "3.14", "1,000", "x2", "7th"),
    *(" ", " ", " ", " ", "  ", "     ", " " * 40, "\n", "\n", "\n\n", "\r\n", "\t", " \n ", "\n\n\n  "),
    *("\xa0", "\u3000", "\u2028", "\x85", "\x00", "\x07", "\u200b", "\u200d", "\ufeff", "\ufffd"),
    *(".", ",", ", ", ". ", "...", "." * 30, "!?", "---", "**", "(", ")", '"', "'", "{}", "</", ">", "$", "="),
    *("größer", "e\u0301", "\u0301", "n\u0303o", ">\u0338", " \u0308", "İ", "ß", "ﬁ", "Ⅷ", "½", "ΑΣ", "Привет"),
    *("你好", "世界。", "，", "日本語の", "カ\uff9e", "한국", "\u1100\u1161\u11a8", "ภาษาไทย", "नमस्ते", "مرحبا"),
    *("\u0600", "שלום", "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "❤\ufe0f", "𝕏", "𒀀", "\\", "`", "|", "^"),
    *("▁", "Ġ", "##a", "<0x0A>", "<s>", "a\n", "\na", "。\n", "a.", "a ", "z,", "你，", "；好"),
)  # fmt: skip


def probe_texts(tokenizer: Tokenizer, patterns: Sequence[str]) -> list[str]:
    """Texts of the pieces above, of the tokenizer's own tokens, and of its patterns and their words."""
    draw = random.Random(0)  # the same texts at every start
    vocabulary = tokenizer.get_vocab_size()
    numbers = [draw.randrange(vocabulary) for _ in range(200)] if vocabulary else []
    tokens = [tokenizer.id_to_token(number) or "" for number in numbers]
    own = [re.sub("[▁Ġ]", " ", token).replace("Ċ", "\n").removeprefix("##") for token in tokens]
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:50]
    literal = [*patterns, *re.findall(r"[\w ]{2,}", " | ".join(patterns))]
    texts = []
    for _ in range(TEXTS):
        sources = draw.choices((_PIECES, own, added, literal), (12, 4, 1, 1), k=PIECES)
        texts.append("".join(draw.choice(source) for source in sources if source))
    return texts
