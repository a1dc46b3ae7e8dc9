"""Encoding: (prompt, response) → token ids, as the checkpoint's tokenizer requires.

No other code handles special tokens or truncation. The tokenizer decides between three formats
(docs/api.md, "How text becomes tokens"):

| format | when                    | tokens                                                        |
| ------ | ----------------------- | ------------------------------------------------------------- |
| chat   | it has a chat template  | the template applied to the prompt's messages + the response  |
| pair   | it has a separator      | the tokenizer's own pair: [CLS] prompt [SEP] response [SEP]   |
| concat | neither                 | tokenizer(prompt + response), then EOS if it is missing       |

A sequence over `max_tokens` loses tokens from the left, the prompt's first: every pooled score depends on the
end of the response. `truncated` records it. Of a much longer text only the end is tokenised (tails.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import accumulate, chain, islice
from typing import Any, Literal, NamedTuple, cast

from tokenizers import Encoding as TokenizerEncoding
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from metarm.errors import InvalidRequestError
from metarm.model.chat_template import ChatTemplate, ControlTokens
from metarm.model.pair_frame import frame_of
from metarm.model.portions import Group, chars_of, portions_of
from metarm.model.tails import Tail, Tails
from metarm.records import Message, Prompt
from metarm.store.origin import DEFAULT_RULES, TextRules

Format = Literal["chat", "pair", "concat"]
RENDERED_FOR_ONE = 4  # characters that a chat template writes in the time in which one is tokenised
NEAR_CHARS = 32  # before the end of a prompt: its last token is nearly always there
UNSET_LENGTH = 10**9  # from here on, a tokenizer's model_max_length means "not set"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence: token ids (S,), segment ids (S,) if the model reads them, and whether tokens
    were dropped to fit. The first `prompt_tokens` tokens come from the prompt alone; sequences of
    other responses to it usually begin with the same ones. `control_tokens`: the text of prompt or response
    contains control tokens of the tokenizer."""

    ids: list[int]
    type_ids: list[int] | None
    truncated: bool
    prompt_tokens: int = field(default=0, compare=False)
    control_tokens: bool = field(default=False, compare=False)

    @property
    def key(self) -> bytes:
        """A digest of the model's input: sequences with equal keys have equal scores."""
        return blake2b(
            array("I", [len(self.ids), *self.ids]).tobytes() + bytes(self.type_ids or ()), digest_size=16
        ).digest()


class Portion(NamedTuple):
    """The next sequences of a request, and how many characters the tokenizer has read for them: those of each
    distinct (prompt, response), less what was cut off. The pair format reads each distinct text once."""

    sequences: list[Encoded]
    chars: int


@dataclass(frozen=True, slots=True, eq=False)
class _Prompt:
    """What is known of a prompt: of equal prompts there is one, so that none is joined or compared twice."""

    text: Prompt  # plain, for a model without a chat template
    control_tokens: bool
    added_tokens: bool


@dataclass(slots=True)
class _Work:
    """What has been done for one request: results by their texts, since equal texts are encoded once, its
    prompts by identity and by content, and the characters that the tokenizer has read."""

    known: dict[Hashable, Any] = field(default_factory=dict)
    prompts: dict[Hashable, _Prompt] = field(default_factory=dict)
    chars: int = 0

    def read(self, texts: Iterable[str], tails: Iterable[Tail]) -> None:
        self.chars += sum(len(text) - tail.start for text, tail in zip(texts, tails, strict=True))


class Encoder:
    """Encodes for one checkpoint. Thread-safe."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, max_tokens: int, rules: TextRules = DEFAULT_RULES
    ) -> None:
        """`max_tokens` limits every sequence, special tokens included."""
        self.tokenizer = tokenizer
        self.max_tokens = min(max_tokens, _declared_limit(tokenizer))
        self.rules = rules
        self.format = _format_of(tokenizer)
        self._template = ChatTemplate(tokenizer, rules.template_date)
        added = tokenizer.added_tokens_decoder.values()
        self._control_tokens = ControlTokens(t.content for t in added if t.special and t.content)
        self._added_tokens = ControlTokens(token.content for token in added if token.content.strip())
        self._uses_segments = "token_type_ids" in tokenizer.model_input_names
        self._plain_tokenizer = _plain_copy(tokenizer.backend_tokenizer)
        if rules.split_special_tokens and self.format != "chat":
            self._plain_tokenizer.encode_special_tokens = True  # as text
        self._tails = Tails(self._plain_tokenizer)
        self._frame = frame_of(self._plain_tokenizer) if self.format == "pair" else None

    def encode(self, groups: Sequence[Group]) -> list[list[Encoded]]:
        """Encode the (prompt, response) sequences of each group, in order.

        Raises InvalidRequestError if the chat template refuses the messages, or a sequence is empty.
        """
        encoded = chain.from_iterable(portion.sequences for portion in self.portions(groups))
        return [list(islice(encoded, len(responses))) for _, responses in groups]

    def portions(self, groups: Sequence[Group]) -> Iterator[Portion]:
        """Encode as `encode` does, in portions: each step encodes the next few sequences, of at most
        PORTION_CHARS characters or one alone. Raises what `encode` raises, at any step."""
        work, begun = _Work(), 0
        for portion in portions_of(groups):
            before = work.chars
            try:
                encoded = iter(self._encode_portion(portion, work))
            except InvalidRequestError as error:
                raise self._refusal(portion, begun, groups) or error from error
            marked = [one for group in portion for one in self._marked(*group, encoded, work)]
            begun += len(marked)
            yield Portion(marked, work.chars - before)

    def text(self, prompt: Prompt, response: str) -> str:
        """The whole text that is tokenised; of the pair format, both texts. Raises InvalidRequestError."""
        return self._texts([(prompt, response)])[0]

    def describe(self) -> dict[str, Any]:
        """The fields of a version's manifest about the encoding."""
        day = self.rules.template_date
        return {
            "format": self.format,
            "max_tokens": self.max_tokens,
            "template_date": day.isoformat() if day else None,
            "split_special_tokens": self.rules.split_special_tokens,
        }

    def _refusal(
        self, portion: Sequence[Group], begun: int, groups: Sequence[Group]
    ) -> InvalidRequestError | None:
        """The error of a portion that begins with sequence number `begun`, with the group that it is about;
        None if it is about no group alone."""
        ends = list(accumulate(len(responses) for _, responses in groups))
        for group in portion:
            try:
                self._encode_portion([group], _Work())
            except InvalidRequestError as error:
                place = bisect_right(ends, begun)
                return InvalidRequestError(f"group {place}: {error.message}", group=place)
            begun += len(group[1])
        return None

    def _prompt(self, prompt: Prompt, work: _Work) -> _Prompt:
        known = work.prompts.get(id(prompt))  # a request's prompts live as long as its work
        if known is None:
            key = prompt if isinstance(prompt, str) else tuple((m["role"], m["content"]) for m in prompt)
            known = work.prompts.get(key)
        if known is None:
            known = work.prompts[key] = _Prompt(
                prompt if self.format == "chat" else _plain_text(prompt),
                self._control_tokens.found_in_prompt(prompt),
                self.rules.split_special_tokens and self._added_tokens.found_in_prompt(prompt),
            )
        work.prompts[id(prompt)] = known
        return known

    def _marked(
        self, prompt: Prompt, responses: Sequence[str], samples: Iterator[Encoded], work: _Work
    ) -> Iterator[Encoded]:
        """The next sequences, of one group, marked where their text has control tokens."""
        marked = self._prompt(prompt, work).control_tokens
        for response in responses:
            sample = next(samples)
            if marked or self._control_tokens.found_in(response):
                sample = replace(sample, control_tokens=True)
            yield sample

    def _encode_portion(self, groups: Sequence[Group], work: _Work) -> list[Encoded]:
        return self._encode_pairs(groups, work) if self.format == "pair" else self._encode_joined(groups, work)

    def _encode_joined(self, groups: Sequence[Group], work: _Work) -> list[Encoded]:
        """`known` gets sequences by prompt and response, and by prompt the characters that come from it."""
        known = work.known
        prompts = [(self._prompt(prompt, work), responses) for prompt, responses in groups]
        sequences = [(prompt, response) for prompt, responses in prompts for response in responses]
        new = [sequence for sequence in dict.fromkeys(sequences) if sequence not in known]
        if self.rules.split_special_tokens and self.format == "chat":
            new = self._encode_forged(new, work)
        texts = self._texts([(prompt.text, response) for prompt, response in new])
        tails = self._tails.encode_batch(texts, self.max_tokens, add_special_tokens=self._adds_special_tokens)
        work.read(texts, tails)
        if self.format == "chat":
            work.chars += sum(map(len, texts)) // RENDERED_FOR_ONE
        for sequence, text, tail in zip(new, texts, tails, strict=True):
            prompt = sequence[0]
            if prompt not in known:
                known[prompt] = self._prompt_chars(prompt)
            known[sequence] = self._single(text, tail, known[prompt])
        return [known[sequence] for sequence in sequences]

    def _encode_forged(
        self, sequences: Sequence[tuple[_Prompt, str]], work: _Work
    ) -> list[tuple[_Prompt, str]]:
        """Encode the sequences whose texts have added tokens, which are read as text. Returns the others."""
        others = []
        for prompt, response in sequences:
            if not prompt.added_tokens and not self._added_tokens.found_in(response):
                others.append((prompt, response))
                continue
            ids = self._template.ids_of_plain_text(prompt.text, response)
            work.chars += chars_of(prompt.text) + len(response)
            work.known[prompt, response] = self._fit(ids, ids[:1], prompt_tokens=0)
        return others

    @property
    def _adds_special_tokens(self) -> bool:
        return self.format == "concat"  # a chat template writes its own

    def _texts(self, sequences: Sequence[tuple[Prompt, str]]) -> list[str]:
        if self.format != "chat":
            return [_plain_text(prompt) + response for prompt, response in sequences]
        with self._template.time_limit():
            return [self._template.render(prompt, response) for prompt, response in sequences]

    def _prompt_chars(self, prompt: _Prompt) -> int:
        """How many of the first characters of every text come from the prompt."""
        if self.format == "concat":
            return len(prompt.text)
        return _common_start(*self._texts([(prompt.text, "A"), (prompt.text, "B")]))

    def _single(self, text: str, tail: Tail, prompt_chars: int) -> Encoded:
        ids: list[int] = tail.encoding.ids
        prompt_tokens = _tokens_before(tail.encoding, prompt_chars - tail.start)
        eos = self.tokenizer.eos_token_id
        if self.format == "concat" and eos is not None and ids[-1:] != [eos]:
            ids.append(eos)
        first = ids[:1]
        if tail.start and len(ids) > self.max_tokens:
            first = self._tails.first_ids(text, add_special_tokens=self._adds_special_tokens)
        return self._fit(ids, first, prompt_tokens)

    def _fit(self, ids: list[int], first: list[int], prompt_tokens: int) -> Encoded:
        """The last `max_tokens` ids of a text that begins with the token `first`. The first `prompt_tokens` of
        `ids` come from the prompt."""
        if not ids:
            raise InvalidRequestError("prompt and response are both empty: send some text to score")
        if len(ids) <= self.max_tokens:
            return Encoded(ids, self._segments(ids), False, prompt_tokens)
        dropped = len(ids) - self.max_tokens
        start = first if first == [self.tokenizer.bos_token_id] else []
        ids = start + ids[dropped + len(start) :]
        return Encoded(ids, self._segments(ids), True, max(0, prompt_tokens - dropped))

    def _segments(self, ids: list[int]) -> list[int] | None:
        return [0] * len(ids) if self._uses_segments else None

    def _encode_pairs(self, groups: Sequence[Group], work: _Work) -> list[Encoded]:
        """`known` gets the last ids of each text."""
        known = work.known
        plain = [(cast("str", self._prompt(prompt, work).text), responses) for prompt, responses in groups]
        sequences = [(prompt, response) for prompt, responses in plain for response in responses]
        new = [text for text in dict.fromkeys(chain.from_iterable(sequences)) if text not in known]
        tails = self._tails.encode_batch(new, self.max_tokens, add_special_tokens=False)
        work.read(new, tails)
        # one more than fits, which shows that the text is truncated
        known.update(zip(new, (tail.encoding.ids[-self.max_tokens - 1 :] for tail in tails), strict=True))
        return [self._pair(known[prompt], known[response]) for prompt, response in sequences]

    def _pair(self, first: list[int], second: list[int]) -> Encoded:
        assert self._frame is not None  # noqa: S101 (the format is "pair")
        frame = self._frame
        room = self.max_tokens - frame.size
        truncated = len(first) + len(second) > room
        if truncated:
            second = second[max(0, len(second) - room) :]
            first = first[max(0, len(first) - (room - len(second))) :]
        ids = [*frame.before, *first, *frame.between, *second, *frame.after]
        if not self._uses_segments:
            return Encoded(ids, None, truncated)
        head = len(frame.before) + len(first)
        segments = [frame.first_segment] * head + frame.between_segments
        segments += [frame.second_segment] * (len(ids) - len(segments))
        return Encoded(ids, segments, truncated)


def _format_of(tokenizer: PreTrainedTokenizerFast) -> Format:
    if tokenizer.chat_template is not None:
        return "chat"
    return "pair" if tokenizer.sep_token is not None else "concat"


def _declared_limit(tokenizer: PreTrainedTokenizerFast) -> int:
    limit = tokenizer.model_max_length
    return int(limit) if limit and limit < UNSET_LENGTH else UNSET_LENGTH


def _plain_copy(backend: Tokenizer) -> Tokenizer:
    """A copy without the truncation and padding that some tokenizer.json files contain."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _common_start(one: str, other: str) -> int:
    """The length of the longest common prefix of two texts."""
    longest = range(min(len(one), len(other)))
    return bisect_left(longest, True, key=lambda last: one[: last + 1] != other[: last + 1])


def _tokens_before(encoding: TokenizerEncoding, chars: int) -> int:
    """The number of tokens that lie wholly within the first `chars` characters of the text."""
    for char in range(chars - 1, max(-1, chars - 1 - NEAR_CHARS), -1):
        token = encoding.char_to_token(char)
        if token is not None:  # some characters have no token, such as a space that the tokenizer drops
            break
    else:  # a long run without a token, or no text: each search for a character passes over all tokens
        spans = filter(None, map(encoding.token_to_chars, reversed(range(len(encoding)))))
        last = next((min(end, chars) for start, end in spans if start < min(end, chars)), 0)
        token = encoding.char_to_token(last - 1) if last else None
    if token is None:
        return 0
    span = encoding.token_to_chars(token)
    return int(token) + (span is None or span[1] <= chars)


def _plain_text(prompt: Prompt) -> str:
    """A prompt for models without a chat template: a single user message unchanged, else one
    "Role: content" paragraph for each turn, and an empty turn of the assistant at the end."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join([_turn(message) for message in prompt] + ["Assistant: "])


def _turn(message: Message) -> str:
    return f"{message['role'].capitalize()}: {message['content']}"
