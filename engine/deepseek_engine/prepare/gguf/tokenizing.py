"""The tokenizer of a GGUF file as ``tokenizer.json`` and its settings.

Why it exists: workers read one format. A SentencePiece vocabulary comes as pieces with scores: the
pair whose union scores best is merged first, which is a byte-pair encoding whose merges are all
ways to cut a piece in two pieces, best score first. A byte-level vocabulary comes with its merges;
how text is cut before is only named, and the names that are known stand here.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepseek_api.errors import ErrorCode, SourceError
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

__all__ = ["tokenizer_files"]

SPACE: Final = "\u2581"
"""What SentencePiece writes for a space."""
# Patterns of the published tokenizer.json files of these families.
_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITS: Final = {
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3,
    "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2,
    "gpt-2": _GPT2,
}  # fmt: skip
"""How text is cut before merging, by ``tokenizer.ggml.pre``."""
BEGUN_BY_DEFAULT: Final = frozenset({"llama-bpe", "llama3", "llama-v3"})
"""Byte-level vocabularies of files too old to say it whose texts begin with a start token."""


class _Kind(enum.IntEnum):
    """Kinds of tokens as the format numbers them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[str]

    @property
    def numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}


def tokenizer_files(metadata: Mapping[str, Any], name: str) -> dict[str, str]:
    """Contents of ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Args:
        metadata: of the file.
        name: of the file, for messages.

    Raises:
        SourceError: there is no vocabulary, or it is of a kind that cannot be read.
    """
    vocabulary = _vocabulary(metadata, name)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "llama":
        tokenizer = _sentencepiece(vocabulary, metadata, name)
        begins = metadata.get("tokenizer.ggml.add_bos_token", True)
    elif kind == "gpt2":
        pre = str(metadata.get("tokenizer.ggml.pre"))
        tokenizer = _byte_level(vocabulary, pre)
        begins = metadata.get("tokenizer.ggml.add_bos_token", pre in BEGUN_BY_DEFAULT)
    else:
        raise _unsupported(f"a vocabulary of the kind '{kind}'")
    _add_tokens(tokenizer, vocabulary)
    special = _special_tokens(metadata, vocabulary)
    ends = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    tokenizer.post_processor = _post_processor(
        special.get("bos_token") if begins else None,
        special.get("eos_token") if ends else None,
        vocabulary,
        byte_level=kind == "gpt2",
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(begins),
        "add_eos_token": ends,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    files = {
        "tokenizer.json": str(tokenizer.to_str()),
        "tokenizer_config.json": json.dumps(settings, indent=1, ensure_ascii=False) + "\n",
    }
    template = metadata.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": template} if isinstance(template, str) else {})


def _vocabulary(metadata: Mapping[str, Any], name: str) -> _Vocabulary:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise SourceError(
            f"'{name}' has no vocabulary.",
            hint="Fetch a GGUF file that holds the model's tokenizer.",
            reason="TokenizerMissing",
        )
    count = len(tokens)
    kinds = metadata.get("tokenizer.ggml.token_type") or [_Kind.NORMAL] * count
    scores = metadata.get("tokenizer.ggml.scores") or [0.0] * count
    if len(kinds) != count or len(scores) != count or len(set(tokens)) != count:
        raise SourceError(
            f"The vocabulary of '{name}' contradicts itself: {count} tokens, {len(set(tokens))} of "
            f"them different, {len(kinds)} kinds, {len(scores)} scores.",
            hint="Fetch the file again, or convert the model again.",
            reason="TokenizerDamaged",
        )
    return _Vocabulary(tokens, kinds, scores, metadata.get("tokenizer.ggml.merges") or [])


def _sentencepiece(vocabulary: _Vocabulary, metadata: Mapping[str, Any], name: str) -> Tokenizer:
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(vocabulary.tokens):
        raise _unsupported(f"no token for unknown text ('{name}' says {unknown})")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary.numbers,
            merges=list(_merges(vocabulary)),
            unk_token=vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
        undo.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def _merges(vocabulary: _Vocabulary) -> Iterator[tuple[str, str]]:
    """All ways to cut a piece into two, the best piece first.

    Tokens of other kinds take no part: SentencePiece finds them before it merges anything.
    """
    pieces = {
        token: (-score, number)
        for number, (token, kind, score) in enumerate(
            zip(vocabulary.tokens, vocabulary.kinds, vocabulary.scores, strict=True)
        )
        if kind == _Kind.NORMAL
    }
    for piece in sorted(pieces, key=pieces.__getitem__):
        for cut in range(len(piece) - 1, 0, -1):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                yield left, right


def _byte_level(vocabulary: _Vocabulary, pre: str) -> Tokenizer:
    if pre not in SPLITS:
        raise _unsupported(f"text cut in the way '{pre}'")
    pairs = (merge.partition(" ") for merge in vocabulary.merges)
    merges = [(left, right) for left, _, right in pairs]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary.numbers, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, vocabulary: _Vocabulary) -> None:
    """Let tokens that are not made by merging be found whole in a text."""
    pairs = list(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    special = [AddedToken(t, normalized=False, special=True) for t, k in pairs
               if k in (_Kind.CONTROL, _Kind.UNKNOWN)]  # fmt: skip
    plain = [AddedToken(t, normalized=False) for t, k in pairs if k == _Kind.USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _special_tokens(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, str]:
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    found = {hub: metadata.get(f"tokenizer.ggml.{own}_token_id") for own, hub in names.items()}
    return {
        f"{hub}_token": vocabulary.tokens[number]
        for hub, number in found.items()
        if isinstance(number, int) and 0 <= number < len(vocabulary.tokens)
    }


def _post_processor(
    first: str | None, last: str | None, vocabulary: _Vocabulary, *, byte_level: bool
) -> Any:
    parts = [token for token in (first, last) if token is not None]
    if not parts:
        return processors.ByteLevel(trim_offsets=False) if byte_level else None
    numbers = vocabulary.numbers
    single = [*([first] if first else []), "$A", *([last] if last else [])]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(token, numbers[token]) for token in parts]
    )


def _unsupported(what: str) -> SourceError:
    return SourceError(
        f"The GGUF file's tokenizer cannot be read: it has {what}.",
        hint="Use the model's safetensors with its tokenizer.json.",
        code=ErrorCode.UNIMPLEMENTED,
        reason="UnsupportedTokenizer",
    )
