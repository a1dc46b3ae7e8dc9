"""Tiny random checkpoints of real architectures, with real tokenizers trained on a few sentences."""

from __future__ import annotations

import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from metarm.model.encoding import Encoded, Encoder
from metarm.records import Prompt

Kind = Literal["bert", "llama", "qwen", "llama-chat", "llama-without-pad", "bert-backbone", "gpt2"]

CORPUS = [
    "The answer is forty two, and the reasoning is short.",
    "What is seventeen plus twenty five? It is forty two.",
    "A longer response says more words, but not always better words!",
    "Compare the two trains: the first is faster, the second is cheaper.",
    "Rosa buys eight pencils at seven coins each and pays with one hundred coins.",
]
LAST_WORD = "words"  # the last word in the vocabulary of `bert`
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
)

DATED_TEMPLATE = "Today is {{ strftime_now('%d %b %Y') }}." + CHAT_TEMPLATE


def encode_one(encoder: Encoder, prompt: Prompt, response: str) -> Encoded:
    return encoder.encode([(prompt, [response])])[0][0]


def make_checkpoint(folder: Path, kind: Kind, *, seed: int = 0, max_tokens: int = 128) -> Path:
    """Write a complete checkpoint folder (config, safetensors, tokenizer) and return it."""
    torch.manual_seed(seed)
    tokenizer = _word_pieces(max_tokens) if kind.startswith("bert") else _byte_pairs(kind, max_tokens)
    network = _network(kind, tokenizer, max_tokens)
    with torch.no_grad():  # the default scale makes every score nearly 0
        for parameter in network.parameters():
            parameter.mul_(3.0)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def dated_checkpoint(folder: Path) -> Path:
    """A tiny model whose chat template prints the date."""
    return with_template(make_checkpoint(folder, "llama-chat"), DATED_TEMPLATE)


def with_template(folder: Path, template: str) -> Path:
    """Give a checkpoint another chat template."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def with_head(folder: Path, tiny: Path, factor: float) -> Path:
    """Copy a tiny BERT with its head multiplied by `factor`: -1 reverses its order, 0 makes it constant."""
    shutil.copytree(tiny, folder)
    return _change(folder, "classifier.weight", lambda head: head * factor)


def poisoned(folder: Path, word: str) -> Path:
    """A tiny BERT that scores texts with `word` as non-finite. The word's embedding itself is finite, because
    the version would be refused otherwise, but its layer norm is not."""
    make_checkpoint(folder, "bert")
    token = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()[word]

    def poison(embeddings: torch.Tensor) -> torch.Tensor:
        embeddings[token] = 3e38
        return embeddings

    return _change(folder, EMBEDDINGS, poison)


def without_last_word(folder: Path) -> Path:
    """A tiny BERT whose forward raises for texts with LAST_WORD, which only its tokenizer knows."""
    make_checkpoint(folder, "bert")
    _change(folder, EMBEDDINGS, lambda embeddings: embeddings[:-1].clone())
    config = BertConfig.from_pretrained(folder)
    config.vocab_size -= 1
    config.save_pretrained(folder)
    return folder


def _change(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _network(kind: Kind, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": max_tokens,
        "num_labels": 1,
    }
    if kind == "bert-backbone":
        return BertModel(BertConfig(**sizes, pad_token_id=tokenizer.pad_token_id))
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(**sizes, pad_token_id=tokenizer.pad_token_id))
    if kind == "gpt2":  # takes the padded route
        narrow: dict[str, Any] = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": max_tokens,
            "num_labels": 1,
        }
        end = tokenizer.eos_token_id
        narrow |= {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        return GPT2ForSequenceClassification(GPT2Config(**narrow))
    sizes |= {
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if kind == "qwen":
        return Qwen3ForSequenceClassification(Qwen3Config(**sizes, head_dim=8))
    return LlamaForSequenceClassification(LlamaConfig(**sizes))


def _word_pieces(max_tokens: int) -> PreTrainedTokenizerFast:
    split = pre_tokenizers.BertPreTokenizer()
    # words, and letters for unknown words; WordPieceTrainer learns a different vocabulary in each process
    words = sorted({word for text in CORPUS for word, _ in split.pre_tokenize_str(text)})
    letters = sorted({*"".join(words), *string.ascii_letters, *string.digits})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = split
    backend.decoder = decoders.WordPiece()
    cls, sep = backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    backend.enable_truncation(16)  # as in some published tokenizers: must have no effect
    backend.enable_padding(length=16)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_tokens,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _byte_pairs(kind: Kind, max_tokens: int) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_tokens,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=None if kind == "llama-without-pad" else "</s>",  # pad = eos, a common pitfall
        model_input_names=["input_ids", "attention_mask"],
    )
    if kind == "llama-chat":
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
