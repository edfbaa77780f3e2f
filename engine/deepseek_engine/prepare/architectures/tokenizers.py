"""Tokenizer files as serving needs them, and one for models whose weights are random."""

from __future__ import annotations

import string

from deepseek_api.errors import SourceError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_tokenizer(content: bytes) -> Tokenizer:
    """The tokenizer of a published ``tokenizer.json``.

    Raises:
        SourceError: the file is no tokenizer.
    """
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise SourceError(
            "The tokenizer.json beside the weights cannot be read.",
            hint="Fetch it again from where the weights came.",
            reason="TokenizerDamaged",
        ) from error


def serving_tokenizer(content: bytes, max_length: int) -> bytes:
    """A published tokenizer with its own padding switched off and truncation at ``max_length``.

    Published files often pad every text to a fixed length; the batcher pads to what a batch needs.

    Raises:
        SourceError: the file is no tokenizer.
    """
    tokenizer = read_tokenizer(content)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer.to_str().encode()


def character_tokenizer(vocabulary_size: int, max_length: int) -> bytes:
    """A tokenizer of single characters, filled up to a vocabulary's size.

    With random weights no answer means anything, so the vocabulary that was trained with the real
    weights is not needed; ids stay inside the model's embedding table.
    """
    pieces = [*SPECIAL_TOKENS, *string.printable.strip()]
    pieces += [f"##{character}" for character in string.printable.strip()]
    pieces += [f"[unused{number}]" for number in range(max(0, vocabulary_size - len(pieces)))]
    vocabulary = {piece: number for number, piece in enumerate(pieces[:vocabulary_size])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_truncation(max_length)
    return str(tokenizer.to_str()).encode()
