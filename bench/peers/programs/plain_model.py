"""A reward model on plain transformers: right padding to the longest text of a batch."""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

Pair = tuple[str, str]


def model_options() -> argparse.ArgumentParser:
    """A parser of the options that all programs have."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser


class PlainModel:
    """Scores (prompt, response) pairs in the given order, `batch_size` per forward."""

    def __init__(self, path: str, max_tokens: int, batch_size: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
        self._max_tokens = max_tokens
        self._batch_size = batch_size

    def scores(self, pairs: list[Pair]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(pairs), self._batch_size):
            scores += self._forward(pairs[start : start + self._batch_size])
        return scores

    @torch.inference_mode()
    def _forward(self, pairs: list[Pair]) -> list[float]:
        prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
        texts = [prompts, responses]
        if self._tokenizer.sep_token is None:  # a language model reads one text
            texts = [[prompt + response for prompt, response in pairs]]
        inputs = self._tokenizer(
            *texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        scores: list[float] = self._model(**inputs).logits[:, 0].tolist()
        return scores
