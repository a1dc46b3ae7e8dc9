from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarm.errors import InvalidRequestError
from metarm.records import Message, PolicyStamp, Prompt, SampleGroup, decode_sample, encode_sample

TEXT = st.text(max_size=40)  # hypothesis omits lone surrogates, which UTF-8 cannot encode
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MESSAGES = st.lists(
    st.builds(lambda role, content: Message(role=role, content=content), TEXT, TEXT), max_size=4
)
PROMPTS: st.SearchStrategy[Prompt] = st.one_of(TEXT, MESSAGES)
SAMPLES = st.builds(
    SampleGroup,
    id=TEXT,
    request_id=TEXT,
    prompt=PROMPTS,
    responses=st.lists(TEXT, max_size=5).map(tuple),
    scores=st.lists(FINITE, max_size=5).map(tuple),
    version=TEXT,
    scored_at=FINITE,
    policy=st.none() | st.builds(PolicyStamp, name=TEXT, step=st.integers(0, 2**63 - 1)),
)
SAMPLE = SampleGroup(
    id="g",
    request_id="r",
    prompt=[Message(role="user", content="你好, wie geht's? 🙂")],
    responses=("gut", "très bien"),
    scores=(0.1, -2.5e-7),
    version="v000007",
    scored_at=1_700_000_000.25,
    policy=PolicyStamp("actor", 12),
)


@given(SAMPLES)
def test_a_sample_is_unchanged_after_encoding_and_decoding(sample: SampleGroup) -> None:
    assert decode_sample(encode_sample(sample)) == sample


def test_conversations_and_unicode_are_unchanged_after_encoding_and_decoding() -> None:
    back = decode_sample(encode_sample(SAMPLE))
    assert back == SAMPLE
    assert back.prompt == [{"role": "user", "content": "你好, wie geht's? 🙂"}]


def test_an_encoded_sample_begins_with_its_codec_number() -> None:
    assert encode_sample(SAMPLE).startswith(b'{"v":1,')


@pytest.mark.parametrize("codec", [0, 2, "1", None])
def test_a_sample_of_another_codec_is_rejected_with_the_codec_number(codec: object) -> None:
    entry = orjson.loads(encode_sample(SAMPLE)) | {"v": codec}
    with pytest.raises(InvalidRequestError, match=f"codec {codec}"):
        decode_sample(orjson.dumps(entry))


@pytest.mark.parametrize(
    "data",
    [b"", b"not json", b"\xff\xfe", b"null", b"7", b'"v"', b"[1]", b"{}", b'{"v":1}', b'{"v":1,"policy":null}'],
)
def test_invalid_bytes_are_rejected_as_unreadable(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        decode_sample(data)


@pytest.mark.parametrize(
    "field", ["id", "request_id", "prompt", "responses", "scores", "version", "scored_at", "policy"]
)
def test_a_sample_that_lacks_a_field_is_rejected(field: str) -> None:
    entry = orjson.loads(encode_sample(SAMPLE))
    del entry[field]
    with pytest.raises(InvalidRequestError):
        decode_sample(orjson.dumps(entry))


def test_a_sample_with_an_unknown_field_is_rejected() -> None:
    entry = orjson.loads(encode_sample(SAMPLE)) | {"reward_bonus": 1}
    with pytest.raises(InvalidRequestError):
        decode_sample(orjson.dumps(entry))


@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_crash_the_decoder(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        decode_sample(data)
