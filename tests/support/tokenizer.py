"""A small tokenizer file, written by hand, so that no test needs a published one."""

from __future__ import annotations

import json
from collections.abc import Sequence


def word_tokenizer(words: Sequence[str]) -> bytes:
    """A ``tokenizer.json`` of whole words; the first four are padding, unknown, start and end."""
    special = {"[CLS]": 2, "[SEP]": 3}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": number,
                    "content": word,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for number, word in enumerate(words[:4])
            ],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                ],
                "pair": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {
                    word: {"id": word, "ids": [number], "tokens": [word]}
                    for word, number in special.items()
                },
            },
            "decoder": None,
            "model": {
                "type": "WordLevel",
                "vocab": {word: number for number, word in enumerate(words)},
                "unk_token": "[UNK]",
            },
        }
    ).encode()
