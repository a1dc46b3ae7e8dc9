"""Sequences cut before they are tokenised are equal to those of the whole text."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from tokenizers import pre_tokenizers as pre

from metarm.model.encoding import Encoded, Encoder
from metarm.model.tails import Tails
from tests.metarm.model.every_tokenizer import KINDS, PROSE, hard_texts, tokenizer_of
from tests.tiny import encode_one

WHOLE = 10**9


def encoder_of(kind: str, max_tokens: int) -> Encoder:
    encoder = Encoder(tokenizer_of(kind), max_tokens)
    encoder.max_tokens = max_tokens  # above the limit of the model, for the whole
    return encoder


def plain(kind: str) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer_of(kind).backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def truncated(whole: Encoded, prompt_only: Encoded, frame: int, encoder: Encoder) -> Encoded:
    """The sequence that truncation makes of a whole one, by the rules of docs/api.md."""
    limit, ids = encoder.max_tokens, whole.ids
    if len(ids) <= limit:
        return whole
    if encoder.format != "pair":
        start = ids[:1] if ids[0] == encoder.tokenizer.bos_token_id else []
        kept = ids[len(ids) - limit + len(start) :]
        return Encoded(start + kept, None, True, max(0, whole.prompt_tokens - len(ids) + limit))
    first = len(prompt_only.ids) - frame
    second = len(ids) - frame - first
    drop_second = max(0, second - (limit - frame))
    drop_first = min(first, len(ids) - drop_second - limit)
    between = frame - 2  # [CLS] first [SEP] second [SEP]
    begin = 1 + first + between + drop_second
    places = [0, *range(1 + drop_first, 1 + first + between), *range(begin, len(ids))]
    segments = whole.type_ids and [whole.type_ids[place] for place in places]
    return Encoded([ids[place] for place in places], segments, True)


def pairs_of(texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts):
        half = len(text) // (2 + number % 7)
        yield text[:half], text[half:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_encoded_as_if_it_were_tokenised_whole(kind: str) -> None:
    whole = encoder_of(kind, WHOLE)
    frame = len(encode_one(whole, "", "").ids)
    for limit in (8, 21):
        encoder = encoder_of(kind, limit)
        for prompt, response in pairs_of(hard_texts(limit, 40, 400)):
            expected = truncated(
                encode_one(whole, prompt, response), encode_one(whole, prompt, ""), frame, encoder
            )
            encoded = encode_one(encoder, prompt, response)
            assert encoded == expected
            assert encoded.prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_long_prose_only_the_end_is_tokenised(kind: str) -> None:
    text = PROSE * 2000
    tail = Tails(plain(kind)).encode(text, 100, add_special_tokens=False)
    assert len(text) - tail.start < 2000
    assert tail.encoding.ids[-100:] == plain(kind).encode(text, add_special_tokens=False).ids[-100:]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("minilm", "." * 50_000),
        ("minilm", "你好世界" * 10_000),
        ("minilm", "[SEP]" * 10_000),
        ("minilm", "a.b" * 10_000),
        ("llama-3", "你好，世界。" * 10_000),
        ("llama-3", "line\n\n\n" * 10_000),
        ("llama-3", "QUJDREVG+/8=" * 5_000),
        ("gemma", "word word\n\n" * 5_000),
        ("t5", "one, two " * 5_000),
    ],
)
def test_text_without_prose_is_cut_where_its_tokenizer_splits_it(kind: str, text: str) -> None:
    tail = Tails(plain(kind)).encode(text, 50, add_special_tokens=False)
    assert len(text) - tail.start < 5000
    assert tail.encoding.ids[-50:] == plain(kind).encode(text, add_special_tokens=False).ids[-50:]


@pytest.mark.parametrize(
    ("kind", "text"), [("llama-3", "." * 9000), ("t5", "a" * 9000), ("gemma", "\n" * 9001)]
)
def test_a_text_that_its_tokenizer_may_not_split_is_tokenised_whole(kind: str, text: str) -> None:
    assert Tails(plain(kind)).encode(text, 50, add_special_tokens=False).start == 0


def joins_words(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre.Sequence(
        [pre.Split(Regex(r"\w+ \w+|\s+|."), "isolated"), pre.ByteLevel(False, use_regex=False)]
    )


def looks_behind(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre.Sequence(
        [pre.Split(Regex(r"(?<=a )b+|\w+|\s|[^\w\s]+"), "isolated"), pre.ByteLevel(False, use_regex=False)]
    )


def counts_characters(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre.Sequence([pre.FixedLength(length=7), pre.ByteLevel(False, use_regex=False)])


def has_single_words(backend: Tokenizer) -> None:
    backend.add_tokens([AddedToken("one", single_word=True)])


def removes_thoughts(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Replace(Regex("<think>.*?</think>"), "")


def removes_brackets(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\[(?:[^\]]|\n)*\]"), "")]
    )


def keeps_lines(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre.Sequence(
        [pre.Split(Regex(r"[\w\s]{20,}|\s+|."), "isolated"), pre.ByteLevel(False, use_regex=False)]
    )


SPANNING = [removes_thoughts, removes_brackets, keeps_lines]


@pytest.mark.parametrize("change", [*SPANNING, joins_words, looks_behind, counts_characters, has_single_words])
def test_a_tokenizer_that_may_read_to_the_left_is_given_whole_texts(
    change: Callable[[Tokenizer], None],
) -> None:
    backend = plain("gpt2")
    change(backend)
    assert Tails(backend).encode("one two three four five " * 1000, 8, add_special_tokens=False).start == 0


def test_an_added_token_of_several_words_is_not_cut() -> None:
    backend = plain("gpt2")
    backend.add_tokens([AddedToken("two three", normalized=False)])
    tails, draw = Tails(backend), random.Random(3)
    for _ in range(50):
        text = "".join(draw.choices(["one", " ", "two three", " four"], k=300))
        tail = tails.encode(text, 8, add_special_tokens=False)
        assert tail.start > 0
        assert tail.encoding.ids[-8:] == backend.encode(text, add_special_tokens=False).ids[-8:]


@pytest.mark.parametrize("spaces", [31, 33, 5000])
def test_prompt_tokens_end_before_any_number_of_characters_without_a_token(spaces: int) -> None:
    """A tokenizer that trims offsets gives a token of spaces an empty span."""
    encoder = encoder_of("llama-3", WHOLE)
    few, many = (encode_one(encoder, "two words" + " " * number, "yes").prompt_tokens for number in (2, spaces))
    assert many == few > 3


def test_the_first_token_is_that_of_the_whole_text_also_after_removed_characters() -> None:
    backend = plain("gpt2")
    backend.pre_tokenizer = pre.Sequence([pre.Split("-", "removed"), pre.ByteLevel(False)])
    text = "-" * 5000 + "one two"
    whole = backend.encode(text, add_special_tokens=False).ids
    assert Tails(backend).first_ids(text, add_special_tokens=False) == whole[:1] != []
