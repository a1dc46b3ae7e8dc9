"""Texts on which a tokenizer shows where it splits: of many scripts, deliberately odd, equal for equal tokenizers."""

from __future__ import annotations

import random
import re

from tokenizers import Tokenizer

TEXTS = 100
PIECES = 60  # in a text

_PIECES = (
    *("the", "answer", "I", "USA", "aB", "x", "don't", "We'LL", "it's", "e.g.", "New York", "a_b", "http://a.b/c?d=e"),
    *("Donaudampfschiff" * 10, "z" * 130, "A" * 7, "QUJDREVG+/8=", "3", "2026", "3.14", "1,000", "x2", "7th"),
    *(" ", " ", " ", " ", "  ", "     ", " " * 40, "\n", "\n", "\n\n", "\r\n", "\t", " \n ", "\n\n\n  ", "\xa0", "\u3000"),
    *(".", ",", ", ", ". ", "...", "." * 30, "!?", "---", "**", "(", ")", '"', "'", "{}", "</", ">", "$", "=", "\\", "`", "|", "^"),
    *("größer", "e\u0301", "\u0301", "n\u0303o", ">\u0338", " \u0308", "İ", "ß", "ﬁ", "Ⅷ", "½", "ΑΣ", "Привет"),
    *("你好", "世界。", "，", "日本語の", "カﾞ", "한국", "\u1100\u1161\u11a8", "ภาษาไทย", "नमस्ते", "مرحبا", "\u0600", "שלום"),
    *("🙂", "👩‍👩‍👧", "🇩🇪", "❤️", "\u200b", "\u200d", "\ufeff", "\x00", "\x07", "\x85", "\u2028", "\ufffd", "𝕏", "𒀀"),
    *("▁", "Ġ", "##a", "<0x0A>", "<s>", "a\n", "\na", "。\n", "a.", "a ", "z,", "你，", "；好"),
)  # fmt: skip


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts of the pieces above, the tokenizer's own tokens and added tokens, and the words of its patterns."""
    draw = random.Random(0)  # the same texts at every start
    vocabulary = tokenizer.get_vocab_size()
    numbers = [draw.randrange(vocabulary) for _ in range(200)] if vocabulary else []
    tokens = [tokenizer.id_to_token(number) or "" for number in numbers]
    own = [re.sub("[▁Ġ]", " ", token).replace("Ċ", "\n").removeprefix("##") for token in tokens]
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:50]
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    steps = "".join(part.__getstate__().decode() for part in parts if part is not None)
    literal = re.findall(r"[\w ]{2,}", steps) + 2 * re.findall(r'"String":"([^"\\]+)"', steps)
    texts = []
    for _ in range(TEXTS):
        sources = draw.choices((_PIECES, own, added, literal), (12, 4, 1, 1), k=PIECES)
        texts.append("".join(draw.choice(source) for source in sources if source))
    return texts
