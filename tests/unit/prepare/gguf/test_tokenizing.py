"""Tokenizers of GGUF files give the numbers that their own algorithm gives, and texts come back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import SourceError
from deepseek_engine.prepare.gguf.reading import GgufFile
from deepseek_engine.prepare.gguf.tokenizing import tokenizer_files
from gguf import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    convert_gguf_tokenizer,
    get_gguf_tokenizer,
)

from tests.support.gguf_files import write_metadata

SENTENCES = (
    "Hello world", "  two spaces\n\nand\tTabs\t\t\n   x", "日本語のテキスト、中文文本 한국어",
    "👩‍👩‍👧‍👦 emoji 🎉🎉 é à ñ", "def f(x):\n    return {'a': [1, 2, 3]}  # comment\n\n\n\n",
    "<table><tr><td>1</td></tr></table>", " ", "a", "ﷺ \u200b zero", "\U0001d539 \x00\x07",
    "naïve café — “quotes” … 1234567890", " leading", "trailing ", "\n", "aaaaaaa",
    "the theory then there", "<not-a-token>", "I'll say it's NASA's",
)  # fmt: skip
"""Scripts, spaces, newlines, code, bytes that no piece covers."""
SPACE = "\u2581"
PIECES = [
    f"{SPACE}the", f"{SPACE}t", "he", f"{SPACE}", "th", "the", "er", "re", "in", "or", "aa", "aaaa",
    "the" + "re", "lo", "ll", "llo", "Hello", "He", f"{SPACE}w",
    *"Helowrdtainyhsbcfxu(){}[]'\":,#1234",
]  # fmt: skip
USER_DEFINED = ["\n", "\n\n", "  ", "   ", "    ", "<table>", "</table>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def sentencepiece(**changes: Any) -> dict[str, Any]:
    """Metadata of a small vocabulary of pieces with scores."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *USER_DEFINED, *BYTES, *dict.fromkeys(PIECES)]
    normal = len(tokens) - 4 - len(USER_DEFINED) - 256
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-1000.0] * (4 + len(USER_DEFINED)) + [0.0] * 256
        + [-float(number) for number in range(normal)],
        "tokenizer.ggml.token_type": [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN]
        + [TokenType.USER_DEFINED] * len(USER_DEFINED) + [TokenType.BYTE] * 256
        + [TokenType.NORMAL] * normal,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_space_prefix": False,
    } | changes  # fmt: skip


def merged(metadata: dict[str, Any], text: str) -> list[int]:
    """SentencePiece's rule, the slow way: merge the neighbours whose union scores best."""
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    scores, number = metadata["tokenizer.ggml.scores"], {t: n for n, t in enumerate(tokens)}
    found, place = [metadata["tokenizer.ggml.bos_token_id"]], 0
    whole = [t for t, k in zip(tokens, kinds, strict=True) if k in (3, 4)]

    def flush(part: str) -> None:
        symbols = list(part.replace(" ", SPACE))
        while True:
            pairs = [a + b for a, b in itertools.pairwise(symbols)]
            known = [(i, number[p]) for i, p in enumerate(pairs) if p in number]
            unions = [(scores[n], -i) for i, n in known if kinds[n] == TokenType.NORMAL]
            if not unions:
                break
            at = -max(unions)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        for symbol in symbols:
            if symbol in number:
                found.append(number[symbol])
            else:
                found.extend(number[f"<0x{byte:02X}>"] for byte in symbol.encode())

    start = 0
    while place < len(text):
        hit = max((t for t in whole if text.startswith(t, place)), key=len, default="")
        if hit:
            flush(text[start:place])
            found.append(number[hit])
            start = place = place + len(hit)
        else:
            place += 1
    flush(text[start:])
    return found


def made(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_files(metadata, "x.gguf")["tokenizer.json"])


@pytest.mark.parametrize("text", SENTENCES)
def test_pieces_are_merged_by_their_scores(text: str) -> None:
    metadata = sentencepiece()
    assert made(metadata).encode(text).ids == merged(metadata, text)


@pytest.fixture(scope="module")
def small() -> tuple[dict[str, Any], Tokenizer]:
    metadata = sentencepiece()
    return metadata, made(metadata)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("Helo theraw\n<tbl>/é🎉"), max_size=40))
def test_any_text_is_merged_so_and_comes_back(
    text: str, small: tuple[dict[str, Any], Tokenizer]
) -> None:
    metadata, tokenizer = small
    encoded = tokenizer.encode(text)
    assert encoded.ids == merged(metadata, text)
    assert tokenizer.decode(encoded.ids) == text


def test_a_first_space_is_added_and_taken_away_where_the_model_was_trained_so() -> None:
    tokenizer = made(sentencepiece(**{"tokenizer.ggml.add_space_prefix": True}))
    encoded = tokenizer.encode("the")
    assert encoded.tokens == ["<bos>", f"{SPACE}the"]
    assert tokenizer.decode(encoded.ids) == "the"


def byte_level(pre: str) -> tuple[dict[str, Any], Tokenizer]:
    """Metadata of a trained byte-level vocabulary, and the tokenizer that they came from."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    fields = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(fields["vocab"], key=fields["vocab"].__getitem__)
    extra = ["<|end|>", "<think>"]
    tokenizer.add_special_tokens([AddedToken(extra[0], special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(extra[1], normalized=False)])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens + extra,
        "tokenizer.ggml.token_type": [TokenType.NORMAL] * len(tokens)
        + [TokenType.CONTROL, TokenType.USER_DEFINED],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in fields["merges"]],
        "tokenizer.ggml.eos_token_id": len(tokens),
    }, tokenizer


def test_a_byte_level_vocabulary_gives_the_numbers_that_it_was_made_with() -> None:
    metadata, expected = byte_level("gpt-2")
    tokenizer = made(metadata)
    for text in (*SENTENCES, "a<|end|>b <think> c"):
        assert tokenizer.encode(text).ids == expected.encode(text).ids, text
        if "<|end|>" not in text:
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_text_is_cut_as_transformers_cuts_it(pre: str, tmp_path: Path) -> None:
    metadata, _ = byte_level(pre)
    tokenizer = made(metadata | {"tokenizer.ggml.add_bos_token": False})
    expected = from_transformers(metadata, tmp_path)
    for text in SENTENCES:
        assert tokenizer.encode(text).ids == expected.encode(text, add_special_tokens=False).ids


def test_a_vocabulary_of_pieces_gives_the_numbers_that_transformers_gives(tmp_path: Path) -> None:
    metadata = sentencepiece()
    expected = from_transformers(metadata, tmp_path, "gemma3")
    for text in SENTENCES:
        ids = expected.encode(text, add_special_tokens=False).ids
        assert made(metadata).encode(text).ids[1:] == ids, text


def from_transformers(
    metadata: dict[str, Any], folder: Path, architecture: str = "llama"
) -> Tokenizer:
    path = write_metadata(folder / "t.gguf", metadata, architecture)
    with GgufFile(path) as file:  # the file says what the metadata say
        assert file.metadata["tokenizer.ggml.tokens"] == metadata["tokenizer.ggml.tokens"]
    name, fields, _ = get_gguf_tokenizer(str(path))
    found: Tokenizer = convert_gguf_tokenizer(name, fields)[0]
    return found


def test_settings_and_template_lie_beside_it() -> None:
    template = "{{ messages }}"
    files = tokenizer_files(
        sentencepiece(
            **{"tokenizer.chat_template": template, "tokenizer.ggml.add_eos_token": True}
        ),
        "x.gguf",
    )
    found = json.loads(files["tokenizer_config.json"])
    assert (found["bos_token"], found["eos_token"], found["pad_token"]) == (
        "<bos>",
        "<eos>",
        "<pad>",
    )
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, True)
    assert files["chat_template.jinja"] == template
    assert Tokenizer.from_str(files["tokenizer.json"]).encode("").ids == [2, 1]
    assert "chat_template.jinja" not in tokenizer_files(sentencepiece(), "x.gguf")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no vocabulary": ({"tokenizer.ggml.tokens": None}, "TokenizerMissing", "no vocabulary"),
    "another kind": ({"tokenizer.ggml.model": "rwkv"}, "UnsupportedTokenizer", "'rwkv'"),
    "an unknown way to cut": (
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "chop"},
        "UnsupportedTokenizer", "'chop'",
    ),
    "scores of other tokens": (
        {"tokenizer.ggml.scores": [0.0]}, "TokenizerDamaged", "1 scores",
    ),
    "a token twice": (
        {"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1],
         "tokenizer.ggml.scores": [0.0, 0.0]},
        "TokenizerDamaged", "1 of them different",
    ),
    "an unknown token that is none": (
        {"tokenizer.ggml.unknown_token_id": 9999}, "UnsupportedTokenizer", "9999",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named(case: str) -> None:
    changes, reason, words = REFUSED[case]
    with pytest.raises(SourceError) as caught:
        tokenizer_files(sentencepiece(**changes), "x.gguf")
    assert caught.value.reason == reason
    assert words in caught.value.message
