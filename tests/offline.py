"""The reference for every score: a plain transformers forward of one sequence at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4


class OfflineModel:
    """A checkpoint loaded with transformers alone, without code of this project."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self._limit = min(self.network.config.max_position_embeddings, 512)

    def encode(self, prompt: str, response: str) -> dict[str, list[int]]:
        """Encode in the documented format with the tokenizer's public methods. Texts must fit untruncated."""
        if self.tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            ids = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
            return {"input_ids": list(ids)}
        if self.tokenizer.sep_token:
            # lists, because the call for a single text treats an empty response as a missing response
            pair = self.tokenizer([prompt], [response], padding=False, truncation=False)
            return {name: pair[name][0] for name in ("input_ids", "token_type_ids")}
        ids = self.tokenizer(prompt + response)["input_ids"]
        return {"input_ids": [*ids, self.tokenizer.eos_token_id]}

    def score(self, prompt: str, response: str) -> float:
        encoded = self.encode(prompt, response)
        assert len(encoded["input_ids"]) <= self._limit, "a test text must fit untruncated"
        inputs = {name: torch.tensor([ids]) for name, ids in encoded.items()}
        with torch.inference_mode():
            return float(self.network(**inputs).logits[0, 0])
