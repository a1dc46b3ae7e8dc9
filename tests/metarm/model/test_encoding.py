from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from metarm.errors import InvalidRequestError, InvalidVersionError
from metarm.model import encoding
from metarm.model.encoder_files import load_encoder
from metarm.model.encoding import Encoded, Encoder
from metarm.model.portions import PORTION_CHARS
from metarm.model.reward_model import load_model
from metarm.records import Message, Prompt
from tests.tiny import CORPUS, Kind, encode_one

PROMPT = "What is seventeen plus twenty five?"
RESPONSE = "It is forty two, and the reasoning is short."
TEXTS = [
    (PROMPT, RESPONSE),
    ("", RESPONSE),
    (PROMPT, ""),
    ("", ""),
    ("größer, 你好 🙂\n\n", "  spaces  \t and ünïcode "),
    ("[SEP] written </s> by a user", "[CLS] <s> too"),
    ("words " * 200, "the second train is cheaper " * 3),
]
Kinds = Callable[[Kind], Path]


def tokenizer_of(path: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def conversation(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


def encode_alone(encoder: Encoder, prompt: Prompt, responses: Sequence[str]) -> list[Encoded]:
    return [encode_one(encoder, prompt, response) for response in responses]


@pytest.mark.parametrize(("prompt", "response"), TEXTS)
def test_the_pair_format_is_the_tokenizers_own_pair_encoding(
    checkpoint: Kinds, prompt: str, response: str
) -> None:
    encoder = load_encoder(checkpoint("bert"), 10_000)
    encoder.max_tokens = 10_000
    theirs = tokenizer_of(checkpoint("bert"))([prompt], [response])
    encoded = encode_one(encoder, prompt, response)
    assert encoder.format == "pair"
    assert encoded == Encoded(theirs.input_ids[0], theirs.token_type_ids[0], truncated=False)


@pytest.mark.parametrize(("prompt", "response"), TEXTS)
@pytest.mark.parametrize("kind", ["llama", "qwen", "llama-without-pad"])
def test_the_concat_format_tokenizes_the_joined_text_and_appends_one_eos(
    checkpoint: Kinds, kind: Kind, prompt: str, response: str
) -> None:
    encoder = load_encoder(checkpoint(kind), 10_000)
    encoder.max_tokens = 10_000
    tokenizer = tokenizer_of(checkpoint(kind))
    assert encoder.format == "concat"
    expected = [*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]
    assert encode_one(encoder, prompt, response) == Encoded(expected, None, truncated=False)


def test_an_existing_eos_is_not_duplicated(checkpoint: Kinds) -> None:
    encoder = load_encoder(checkpoint("llama"), 128)
    expected = tokenizer_of(checkpoint("llama"))(PROMPT + RESPONSE + "</s>").input_ids
    assert (
        encode_one(encoder, PROMPT, RESPONSE + "</s>").ids
        == encode_one(encoder, PROMPT, RESPONSE).ids
        == expected
    )


@pytest.mark.parametrize(("prompt", "response"), TEXTS)
def test_the_chat_format_uses_the_models_own_template(checkpoint: Kinds, prompt: str, response: str) -> None:
    encoder = load_encoder(checkpoint("llama-chat"), 10_000)
    encoder.max_tokens = 10_000
    tokenizer = tokenizer_of(checkpoint("llama-chat"))
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    theirs: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encoder.format == "chat"
    assert encode_one(encoder, prompt, response) == Encoded(list(theirs), None, truncated=False)


def test_the_chat_template_is_applied_to_every_turn_of_a_conversation(checkpoint: Kinds) -> None:
    turns = conversation(("system", "Be short."), ("user", PROMPT), ("assistant", "Why?"), ("user", "Tell me."))
    tokenizer = tokenizer_of(checkpoint("llama-chat"))
    messages: Any = [*turns, {"role": "assistant", "content": RESPONSE}]
    theirs: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encode_one(load_encoder(checkpoint("llama-chat"), 128), turns, RESPONSE).ids == list(theirs)


@pytest.mark.parametrize("kind", ["bert", "llama", "llama-chat"])
def test_a_single_user_message_is_encoded_like_plain_text(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 128)
    assert encode_one(encoder, conversation(("user", PROMPT)), RESPONSE) == encode_one(
        encoder, PROMPT, RESPONSE
    )


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_without_a_template_every_turn_is_labelled_with_its_role(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 128)
    turns = conversation(("user", "One?"), ("assistant", "Two."), ("user", "Three?"))
    text = "User: One?\n\nAssistant: Two.\n\nUser: Three?\n\nAssistant: "
    assert encode_one(encoder, turns, RESPONSE) == encode_one(encoder, text, RESPONSE)
    assert encode_one(encoder, turns, RESPONSE) != encode_one(encoder, turns[:1], RESPONSE)


def test_messages_that_the_template_rejects_are_an_invalid_request(checkpoint: Kinds) -> None:
    encoder = load_encoder(checkpoint("llama-chat"), 128)
    with pytest.raises(InvalidRequestError, match="unknown role tool"):
        encode_one(encoder, conversation(("tool", "42")), RESPONSE)


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen", "llama-chat"])
def test_a_sequence_at_the_limit_is_not_truncated_and_a_longer_one_is(checkpoint: Kinds, kind: Kind) -> None:
    whole = encode_one(load_encoder(checkpoint(kind), 128), PROMPT, RESPONSE)
    length = len(whole.ids)
    assert not whole.truncated
    assert encode_one(load_encoder(checkpoint(kind), length), PROMPT, RESPONSE) == whole
    shorter = encode_one(load_encoder(checkpoint(kind), length - 1), PROMPT, RESPONSE)
    assert shorter.truncated
    assert len(shorter.ids) == length - 1


def test_a_pair_is_truncated_at_the_start_of_its_prompt_first(checkpoint: Kinds) -> None:
    tokenizer = tokenizer_of(checkpoint("bert"))
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    first = tokenizer(PROMPT, add_special_tokens=False).input_ids
    second = tokenizer(RESPONSE, add_special_tokens=False).input_ids
    for limit in range(8, len(first) + len(second) + 3):
        kept_second = second[-min(len(second), limit - 3) :]
        room = limit - 3 - len(kept_second)
        kept_first = first[len(first) - room :]
        expected = Encoded(
            [cls, *kept_first, sep, *kept_second, sep],
            [0] * (len(kept_first) + 2) + [1] * (len(kept_second) + 1),
            truncated=True,
        )
        assert encode_one(load_encoder(checkpoint("bert"), limit), PROMPT, RESPONSE) == expected


@pytest.mark.parametrize("kind", ["llama", "qwen", "llama-without-pad"])
def test_a_joined_text_is_truncated_from_the_left_and_keeps_its_bos(checkpoint: Kinds, kind: Kind) -> None:
    whole = encode_one(load_encoder(checkpoint(kind), 128), PROMPT, RESPONSE).ids
    for limit in (8, 9, len(whole) // 2, len(whole) - 1):
        encoded = encode_one(load_encoder(checkpoint(kind), limit), PROMPT, RESPONSE)
        assert encoded == Encoded([whole[0], *whole[len(whole) - limit + 1 :]], None, truncated=True)


def test_a_chat_without_bos_is_truncated_from_the_left(checkpoint: Kinds) -> None:
    whole = encode_one(load_encoder(checkpoint("llama-chat"), 128), PROMPT, RESPONSE).ids
    encoded = encode_one(load_encoder(checkpoint("llama-chat"), 10), PROMPT, RESPONSE)
    assert encoded == Encoded(whole[-10:], None, truncated=True)


@pytest.mark.parametrize("kind", ["bert", "llama", "llama-chat"])
def test_no_sequence_exceeds_the_limit_of_the_model(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 10_000)
    encoded = encode_one(encoder, "words " * 500, "more words " * 500)
    assert encoder.max_tokens == len(encoded.ids) == 128
    assert encoder.describe()["max_tokens"] == 128


@pytest.mark.parametrize("kind", ["bert", "llama", "llama-chat"])
def test_a_group_is_encoded_like_each_of_its_responses_alone(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 30)
    prompt = PROMPT
    responses = ["Yes.", RESPONSE * 9, "", RESPONSE, "No.", RESPONSE * 2, "Yes."]
    encoded = encoder.encode([(prompt, responses), ("Two?", ["Yes."])])
    assert encoded == [encode_alone(encoder, prompt, responses), encode_alone(encoder, "Two?", ["Yes."])]
    assert {e.truncated for e in encoded[0]} == {True, False}


def test_a_truncated_response_does_not_shorten_the_prompt_of_the_next_response(checkpoint: Kinds) -> None:
    encoder = load_encoder(checkpoint("bert"), 24)
    (group,) = encoder.encode([(PROMPT, [RESPONSE * 9, "Yes.", RESPONSE * 2, "No."])])
    assert [e.truncated for e in group] == [True, False, True, False]
    assert group == encode_alone(encoder, PROMPT, [RESPONSE * 9, "Yes.", RESPONSE * 2, "No."])


@pytest.mark.parametrize("kind", ["bert", "llama", "llama-chat"])
def test_portions_are_bounded_and_have_all_sequences_in_order(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 30)
    words = "the answer is forty two and the second train is cheaper "
    lengths = [[0], [40_000, 30_000, 0, 10, 100_000, 20], [], [100] * 700, [63_000], [2000] * 40]
    groups = [
        (
            f"{n} {words}" * (n + 1),
            [f"{n} {i} {words * (chars // len(words))}" for i, chars in enumerate(group)],
        )
        for n, group in enumerate(lengths)
    ]
    portions = [portion.sequences for portion in encoder.portions(groups)]
    flat = [(prompt, response) for prompt, responses in groups for response in responses]
    sequences = iter(flat)
    for portion in portions:
        chars = [sum(map(len, texts)) for texts in islice(sequences, len(portion))]
        assert len(portion) == 1 or sum(chars) <= PORTION_CHARS
    assert next(sequences, None) is None
    assert len(portions) < len(flat) / 10
    expected = [encode_one(encoder, prompt, response) for prompt, response in flat]
    assert [sample for portion in portions for sample in portion] == expected
    assert encoder.encode(groups) == [encode_alone(encoder, *group) for group in groups]


@pytest.mark.parametrize("kind", ["bert", "llama", "llama-chat"])
def test_equal_texts_of_a_request_are_tokenised_once(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 30)
    word = "z" * 200_000  # no tokenizer may cut it
    started = time.monotonic()
    groups = encoder.encode([("Why?", [word] * 1000), (conversation(("user", "How?")), [word] * 1000)])
    assert time.monotonic() - started < 20  # one by one they take minutes
    assert [len(group) for group in groups] == [1000, 1000]
    assert groups[1][-1] == encode_one(encoder, "How?", word)


def test_truncation_and_padding_stored_in_the_tokenizer_are_ignored(checkpoint: Kinds) -> None:
    baked = json.loads((checkpoint("bert") / "tokenizer.json").read_text())
    assert baked["truncation"]["max_length"] == 16
    assert baked["padding"]["strategy"] == {"Fixed": 16}
    encoder = load_encoder(checkpoint("bert"), 128)
    pad = encoder.tokenizer.pad_token_id
    assert len(encode_one(encoder, PROMPT, RESPONSE).ids) > 16
    assert pad not in encode_one(encoder, "One?", "Two.").ids


def test_truncation_stored_in_the_tokenizer_is_not_saved_with_the_model(
    checkpoint: Kinds, tmp_path: Path
) -> None:
    load_model(checkpoint("bert"), 128).save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None
    text = "a few more words than sixteen " * 5
    raw = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert len(raw.encode(text).ids) > 16
    assert tokenizer_of(tmp_path / "saved")(text).input_ids == tokenizer_of(checkpoint("bert"))(text).input_ids
    again = load_encoder(tmp_path / "saved", 128)
    assert encode_one(again, PROMPT, RESPONSE) == encode_one(
        load_encoder(checkpoint("bert"), 128), PROMPT, RESPONSE
    )


def test_an_empty_prompt_and_response_are_valid_if_special_tokens_remain(checkpoint: Kinds) -> None:
    assert len(encode_one(load_encoder(checkpoint("bert"), 128), "", "").ids) == 3
    assert len(encode_one(load_encoder(checkpoint("llama"), 128), "", "").ids) == 2


def test_an_empty_sequence_is_an_invalid_request(checkpoint: Kinds) -> None:
    encoder = load_encoder(checkpoint("llama-chat"), 128)
    encoder.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(InvalidRequestError, match="are both empty"):
        encode_one(encoder, "", "")


@pytest.mark.parametrize("kind", ["bert", "llama", "llama-chat"])
def test_concurrent_threads_get_the_same_encoding_as_a_single_thread(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 40)
    prompts = [f"{PROMPT} {'and the first train ' * (i % 7)}" for i in range(60)]
    expected = [encoder.encode([(prompt, [RESPONSE, "Yes."])]) for prompt in prompts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda prompt: encoder.encode([(prompt, [RESPONSE, "Yes."])]), prompts))
    assert together == expected


def test_a_very_long_prompt_and_response_are_truncated_quickly(checkpoint: Kinds) -> None:
    encoder = load_encoder(checkpoint("bert"), 128)
    text = "the answer is forty two " * 8000
    started = time.monotonic()
    encoded = encode_one(encoder, text, text)
    assert time.monotonic() - started < 10  # the truncation of the tokenizers library takes half a minute
    assert len(encoded.ids) == 128
    assert encoded.truncated


def test_a_checkpoint_without_tokenizer_files_is_rejected(checkpoint: Kinds, tmp_path: Path) -> None:
    shutil.copytree(checkpoint("bert"), tmp_path / "bare")
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InvalidVersionError, match="tokenizer"):
        load_encoder(tmp_path / "bare", 128)


texts = st.text(st.sampled_from("ab <,.\n\tThe answer ünï你🙂"), max_size=30) | st.sampled_from(
    [*CORPUS, "</s>", "<|user|>"]
)
turns = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts),
    min_size=1,
    max_size=3,
)


@functools.cache
def encoder_without_limit(path: Path) -> Encoder:
    encoder = load_encoder(path, 10_000)
    encoder.max_tokens = 10_000
    return encoder


def tokens_before_the_response(encoder: Encoder, prompt: Prompt, response: str) -> int:
    """Count the tokens that end before the first character of the response, by the tokenizer's public offsets.

    Without a response, all tokens count.
    """
    if encoder.format == "concat":
        assert isinstance(prompt, str)
        before, text = prompt, prompt + response
    else:
        conversation = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        whole: Any = [*conversation, {"role": "assistant", "content": response}]
        text = str(encoder.tokenizer.apply_chat_template(whole, tokenize=False))
        before = text.removesuffix("</s>").removesuffix(response)
    encoded: Any = encoder.tokenizer(
        text, add_special_tokens=encoder.format == "concat", return_offsets_mapping=True
    )
    # if a character takes several tokens, each of them has the offsets of the whole character
    return sum(end <= len(before) for _, end in encoded.offset_mapping)


@given(texts, st.lists(texts, min_size=1, max_size=4))
@example("The answer", [" is", "", "s are", "é"])
@settings(deadline=None)
def test_the_prompt_tokens_of_a_joined_text_end_before_the_response(
    checkpoint: Kinds, prompt: str, responses: list[str]
) -> None:
    encoder = encoder_without_limit(checkpoint("llama"))
    (group,) = encoder.encode([(prompt, responses)])
    for encoded, response in zip(group, responses, strict=True):
        before = tokens_before_the_response(encoder, prompt, response)
        # the last character of a prompt may take several tokens, of which the first ones count
        assert before - 3 <= encoded.prompt_tokens <= before
        if prompt.isascii() and prompt:
            assert encoded.prompt_tokens == before


@given(texts | turns, st.lists(texts, min_size=1, max_size=4))
@example("What is it?", ["<b>bold</b>", "</s> and more", "<", ""])  # these begin like an end-of-turn marker
@settings(deadline=None)
def test_the_prompt_tokens_of_a_chat_end_before_the_response(
    checkpoint: Kinds, prompt: Prompt, responses: list[str]
) -> None:
    encoder = encoder_without_limit(checkpoint("llama-chat"))
    (group,) = encoder.encode([(prompt, responses)])
    for encoded, response in zip(group, responses, strict=True):
        assert encoded.prompt_tokens == tokens_before_the_response(encoder, prompt, response)


@given(texts | turns, st.lists(texts, min_size=2, max_size=5))
@settings(deadline=None)
def test_responses_to_the_same_chat_prompt_begin_with_the_same_tokens(
    checkpoint: Kinds, prompt: Prompt, responses: list[str]
) -> None:
    """In a chat, a token ends at the end of the prompt for every response."""
    encoder = encoder_without_limit(checkpoint("llama-chat"))
    (group,) = encoder.encode([(prompt, responses)])
    assert len({tuple(encoded.ids[: encoded.prompt_tokens]) for encoded in group}) == 1


@given(st.sampled_from(CORPUS), st.lists(texts, min_size=2, max_size=5))
@settings(deadline=None)
def test_responses_that_begin_with_a_space_share_the_whole_joined_prompt(
    checkpoint: Kinds, prompt: str, responses: list[str]
) -> None:
    encoder = encoder_without_limit(checkpoint("llama"))
    (group,) = encoder.encode(
        [(prompt, [f" {response.strip()}" for response in responses if response.strip()])]
    )
    alone = tokenizer_of(checkpoint("llama"))(prompt).input_ids
    assert all(encoded.ids[: encoded.prompt_tokens] == alone for encoded in group)


@pytest.mark.parametrize("kind", ["llama", "qwen", "llama-without-pad", "llama-chat"])
def test_the_prompt_tokens_of_a_truncated_sequence_are_those_that_remain(checkpoint: Kinds, kind: Kind) -> None:
    encoder = load_encoder(checkpoint(kind), 128)
    whole = encode_one(encoder, PROMPT, RESPONSE)
    answer = len(whole.ids) - whole.prompt_tokens
    for limit in range(8, len(whole.ids) + 1):
        encoded = encode_one(load_encoder(checkpoint(kind), limit), PROMPT, RESPONSE)
        assert encoded.prompt_tokens == max(0, limit - answer)


def test_leading_spaces_of_a_response_do_not_count_as_prompt_tokens(checkpoint: Kinds, tmp_path: Path) -> None:
    """A tokenizer that trims offsets, such as Llama 3's, gives a token of spaces an empty span."""
    folder = shutil.copytree(checkpoint("llama-chat"), tmp_path / "trims")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    plain, spaced = load_encoder(folder, 128).encode([(PROMPT, ["Plain.", "    indented"])])[0]
    assert spaced.prompt_tokens == plain.prompt_tokens > 0


@pytest.mark.parametrize(("prompt", "response"), TEXTS)
def test_a_pair_has_no_prompt_tokens(checkpoint: Kinds, prompt: str, response: str) -> None:
    """In an encoder, every token attends to the response, so nothing can be shared."""
    assert encode_one(load_encoder(checkpoint("bert"), 128), prompt, response).prompt_tokens == 0


ids_and_segments = st.integers(1, 12).flatmap(
    lambda length: st.tuples(
        st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 2), min_size=length, max_size=length),
        st.none() | st.lists(st.integers(0, 1), min_size=length, max_size=length),
    )
)


@given(ids_and_segments, ids_and_segments, st.integers(0, 5), st.booleans())
def test_sequences_have_equal_keys_exactly_if_the_model_input_is_equal(
    one: tuple[list[int], list[int] | None],
    other: tuple[list[int], list[int] | None],
    prompt_tokens: int,
    truncated: bool,
) -> None:
    first, second = Encoded(*one, truncated=False), Encoded(*other, truncated=truncated)
    assert (first.key == second.key) == (one == other)
    assert first.key == Encoded(*one, truncated, prompt_tokens).key


def test_keys_differ_by_order_length_and_segments() -> None:
    sequences = [
        Encoded([1, 2], None, truncated=False),
        Encoded([2, 1], None, truncated=False),
        Encoded([1, 2, 0], None, truncated=False),
        Encoded([258], None, truncated=False),
        Encoded([1, 1], None, truncated=False),
        Encoded([1, 2], [0, 0], truncated=False),
        Encoded([1, 2], [0, 1], truncated=False),
        Encoded([1, 2], [1, 0], truncated=False),
        Encoded([1, 2, 3, 4, 0], None, truncated=False),
        Encoded([1, 2, 3, 4], [0, 0, 0, 0], truncated=False),
    ]
    assert len({sequence.key for sequence in sequences}) == len(sequences)


def test_directories_with_the_same_tokenizer_share_an_encoder_while_it_is_in_use(
    checkpoint: Kinds, tmp_path: Path
) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(checkpoint("bert"), same)
    shutil.copytree(checkpoint("bert"), other)
    (same / "manifest.json").write_text("{}")  # no effect on tokenization
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 64}))
    encoder = load_encoder(checkpoint("bert"), 512)
    assert load_encoder(same, 512) is encoder
    assert load_encoder(same, 100) is not encoder
    assert load_encoder(other, 512).max_tokens == 64
    before = id(encoder.tokenizer)
    tokenizer = encoder.tokenizer
    del encoder
    assert id(load_encoder(same, 512).tokenizer) != before
    assert tokenizer.model_max_length == 128


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_long_conversation_is_joined_once_for_all_its_responses(
    checkpoint: Kinds, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[Prompt] = []
    join = encoding._plain_text

    def counted(prompt: Prompt) -> str:
        if not isinstance(prompt, str):
            joined.append(prompt)
        return join(prompt)

    monkeypatch.setattr(encoding, "_plain_text", counted)
    encoder = load_encoder(checkpoint(kind), 128)
    turns: Prompt = [{"role": "user", "content": "word " * 100}] * 200
    found = encoder.encode([(turns, [f"answer {n}" for n in range(20)])] * 2)
    assert len(joined) <= 2  # once for each group of the request
    assert found[0] == found[1]
    assert encode_one(encoder, turns, "answer 7") == found[0][7]


def test_what_a_chat_template_writes_counts_as_work(checkpoint: Kinds) -> None:
    encoder = load_encoder(checkpoint("llama-chat"), 32)
    turns: Prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 5000
    portions = list(encoder.portions([(turns[:-1], ["one", "two"])]))
    written = len(encoder.text(turns[:-1], "one"))
    assert sum(portion.chars for portion in portions) >= 2 * written // 4
