"""What the engine finds out about a tokenizer when it opens a model."""

from __future__ import annotations

import pytest
from deepseek_engine.generation.opening import start_tokens
from tokenizers import Tokenizer, models, pre_tokenizers, processors

START, END = ("<s>", 1), ("</s>", 2)


def tokenizer(template: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({"a": 0, "<s>": 1, "</s>": 2, "?": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[START, END]
    )
    return made


@pytest.mark.parametrize(
    ("template", "expected"),
    [("$A", ()), ("<s> $A", (1,)), ("$A </s>", ()), ("<s> <s> $A </s>", (1, 1))],
    ids=["nothing", "a start", "an end only", "two before and one behind"],
)
def test_start_tokens_are_what_comes_before_a_text(
    template: str, expected: tuple[int, ...]
) -> None:
    assert start_tokens(tokenizer(template)) == expected
