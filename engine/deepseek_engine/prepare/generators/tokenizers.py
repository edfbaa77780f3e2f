"""Tokenizer files of a model that generates, and one for models whose weights are random."""

from __future__ import annotations

from typing import Any, Final

from deepseek_api.errors import ErrorCode, SourceError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from deepseek_engine.prepare.architectures.tokenizers import read_tokenizer
from deepseek_engine.prepare.sources import Source

__all__ = ["TOKENIZER", "byte_tokenizer", "tokenizer_files"]

TOKENIZER: Final = "tokenizer.json"
OPTIONAL: Final = ("tokenizer_config.json", "chat_template.jinja")
SPECIAL_TOKENS: Final = ("<pad>", "<bos>", "<eos>")
"""Tokens 0, 1 and 2 of models with random weights, as their configurations say."""
BYTES: Final = 256


def tokenizer_files(
    source: Source, config: dict[str, Any], *, random_weights: bool
) -> dict[str, bytes]:
    """Contents of ``tokenizer.json`` and of what else the source has of its tokenizer, by name.

    Args:
        source: where the weights are from.
        config: content of ``config.json``.
        random_weights: whether a model may do without a tokenizer of its own.

    Raises:
        SourceError: there is no tokenizer, it cannot be read, or its tokens are not the model's.
    """
    folder, vocabulary = source.folder, int(config.get("vocab_size", 0))
    if folder is None or not (folder / TOKENIZER).is_file():
        if random_weights:
            return {TOKENIZER: byte_tokenizer(vocabulary)}
        raise SourceError(
            "There is no tokenizer.json beside the weights.",
            hint="Fetch the model's tokenizer.json. One with only a tokenizer.model becomes one by "
            "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER).",
            code=ErrorCode.NOT_FOUND,
            reason="TokenizerMissing",
        )
    content = (folder / TOKENIZER).read_bytes()
    _check(content, vocabulary)
    others = {name: (folder / name).read_bytes() for name in OPTIONAL if (folder / name).is_file()}
    return {TOKENIZER: content} | others


def byte_tokenizer(vocabulary_size: int) -> bytes:
    """A tokenizer of single bytes, filled up to a vocabulary's size; every text comes back whole.

    With random weights no answer means anything, so the vocabulary that was trained with the real
    weights is not needed; ids stay inside the model's embedding table.

    Raises:
        SourceError: the vocabulary has no room for all bytes.
    """
    if vocabulary_size < len(SPECIAL_TOKENS) + BYTES:
        raise SourceError(
            f"A vocabulary of {vocabulary_size} tokens has no room for all bytes.",
            hint=f"Random weights need a vocab_size of at least {len(SPECIAL_TOKENS) + BYTES}.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="InvalidConfig",
        )
    pieces = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"<unused{number}>" for number in range(vocabulary_size - len(pieces))]
    tokenizer = Tokenizer(models.BPE(vocab={p: n for n, p in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return str(tokenizer.to_str()).encode()


def _check(content: bytes, vocabulary_size: int) -> None:
    tokenizer = read_tokenizer(content)
    highest = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
    if vocabulary_size and highest >= vocabulary_size:
        raise SourceError(
            f"The tokenizer has a token {highest}, and the model's vocabulary ends before "
            f"{vocabulary_size}.",
            hint="Use the tokenizer.json that belongs to these weights.",
            reason="TokenizerDoesNotFit",
        )
