"""The encoder of a checkpoint: a tokenizer's files, read once for all versions that share them."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from weakref import WeakValueDictionary

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from metarm.errors import InvalidVersionError
from metarm.model.encoding import Encoder
from metarm.store.manifest import MANIFEST
from metarm.store.origin import DEFAULT_RULES, TextRules
from metarm.store.versions import CURVE


def load_encoder(path: Path | str, max_tokens: int, rules: TextRules = DEFAULT_RULES) -> Encoder:
    """The encoder of a checkpoint folder or hub id. Folders with equal files share one encoder while it is in
    use. Raises InvalidVersionError."""
    if not isinstance(path, Path):
        return _read_encoder(path, max_tokens, rules)
    key = (_digest_of_encoding(path), max_tokens, rules)
    encoder = _in_use.get(key)
    if encoder is None:
        encoder = _in_use[key] = _read_encoder(path, max_tokens, rules)
    return encoder


# Most versions share one tokenizer. Reading one holds the GIL for about 50 ms, which delays every request.
_in_use: WeakValueDictionary[tuple[bytes, int, TextRules], Encoder] = WeakValueDictionary()


def _digest_of_encoding(folder: Path) -> bytes:
    """A digest of every file that may affect the encoding: all but the weights, the manifest and the curve."""
    digest = blake2b(digest_size=32)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix != ".safetensors" and file.name not in (MANIFEST, CURVE):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder)} {len(content)}\n".encode())
            digest.update(content)
    return digest.digest()


def _read_encoder(path: Path | str, max_tokens: int, rules: TextRules) -> Encoder:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidVersionError(f"{path}: its tokenizer does not load: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidVersionError(f"{path}: it has no fast tokenizer: add a tokenizer.json")
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_tokens):
        # transformers returns such a tokenizer for a folder without tokenizer files
        raise InvalidVersionError(f"{path}: its tokenizer has no vocabulary: check that its files are complete")
    try:
        return Encoder(tokenizer, max_tokens, rules)
    except InvalidVersionError as error:
        raise InvalidVersionError(f"{path}: {error.message}") from error
