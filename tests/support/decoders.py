"""Small random decoders of every family, as transformers saves and computes them, and a driver.

The driver does what a scheduler does, with blocks in a shuffled order; it decides nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from deepseek_engine.generation.decoder.model import Decoder
from deepseek_engine.generation.steps import StepInputs

COMMON: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 256,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
DEEPSEEK: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if name != "head_dim"},
    "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 3,
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10,
    "v_head_dim": 12, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4,
    "topk_group": 2, "n_shared_experts": 1, "moe_intermediate_size": 20,
    "first_k_dense_replace": 1, "num_nextn_predict_layers": 0,
}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", COMMON),
    "llama, tied, with biases": (
        "llama",
        {**COMMON, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, 3 heads of one key head": (
        "llama",
        {**COMMON, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10},
    ),
    "llama, linear rope": (
        "llama",
        {
            **COMMON,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
    ),
    "llama, llama3 rope": (
        "llama",
        {
            **COMMON,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama, yarn rope": ("llama", {**COMMON, "head_dim": 16, "rope_parameters": YARN}),
    "mistral, window": ("mistral", {**COMMON, "sliding_window": 7}),
    "mistral, no window": ("mistral", {**COMMON, "sliding_window": None}),
    "qwen2": ("qwen2", {k: v for k, v in COMMON.items() if k != "head_dim"}),
    "qwen2, windows from layer 1": (
        "qwen2",
        {
            **{k: v for k, v in COMMON.items() if k != "head_dim"},
            "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
        },
    ),
    "qwen3": ("qwen3", COMMON),
    "gemma3": (
        "gemma3_text",
        {
            **COMMON, "num_hidden_layers": 4, "sliding_window": 6, "head_dim": 12,
            "num_attention_heads": 4, "num_key_value_heads": 1, "query_pre_attn_scalar": 20,
            "layer_types": [
                "sliding_attention", "sliding_attention", "full_attention", "sliding_attention",
            ],
        },
    ),
    "gemma3, capped scores": (
        "gemma3_text",
        {**COMMON, "sliding_window": 9, "final_logit_softcapping": 3.0},
    ),
    "gpt2": (
        "gpt2",
        {"vocab_size": 97, "n_embd": 36, "n_head": 3, "n_layer": 2, "n_positions": 256},
    ),
    "deepseek": ("deepseek_v3", DEEPSEEK),
    "deepseek, yarn, plain queries, pairs apart": (
        "deepseek_v3",
        {
            **DEEPSEEK, "q_lora_rank": None, "rope_interleave": False,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8},
        },
    ),
}  # fmt: skip
"""Model type and arguments of transformers' configuration, by what is special."""


def make_reference(variant: str, folder: Path, *, seed: int = 0) -> Any:
    """The model of transformers with random weights, saved in a folder; on evaluation."""
    import transformers

    kind, fields = VARIANTS[variant]
    config = transformers.AutoConfig.for_model(kind, **fields, eos_token_id=1, pad_token_id=0)
    config._attn_implementation = "eager"
    family: Any = transformers.AutoModelForCausalLM
    model = family.from_config(config).eval()
    draws = torch.Generator().manual_seed(seed)
    tensors = (*model.parameters(), *(b for n, b in model.named_buffers() if "e_score" in n))
    for tensor in tensors:
        # All of them: norms and biases that start as ones and zeros would hide mistakes.
        noise = torch.randn(tensor.shape, generator=draws)
        scale = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.2
        tensor.data = tensor.data * (tensor.ndim == 1) + noise * scale
    model.tie_weights()
    model.save_pretrained(folder)
    return model


def edit_config(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change fields of a saved ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(changes)))


@torch.no_grad()
def reference_scores(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Scores fp32 ``[len(tokens), vocabulary]`` of transformers, without a cache."""
    found: torch.Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return found.float()


def reference_greedy(model: Any, tokens: Sequence[int], given: Sequence[int]) -> list[int]:
    """What transformers would have chosen after a prompt, and after each of the given tokens.

    The greedy answer of transformers is the given one exactly if this returns it, by induction.
    """
    scores = reference_scores(model, [*tokens, *given[:-1]])
    return [int(token) for token in scores[len(tokens) - 1 :].argmax(-1)]


def prompt(length: int, *, seed: int = 0, vocabulary: int = 97) -> list[int]:
    """Random tokens."""
    draw = random.Random(seed)
    return [draw.randrange(vocabulary) for _ in range(length)]


class Driver:
    """Sequences of a decoder and their blocks."""

    def __init__(
        self, decoder: Decoder, *, blocks: int = 64, block_size: int = 4, seed: int = 0
    ) -> None:
        self.decoder = decoder
        self.cache = decoder.make_cache(blocks, block_size)
        self.block_size = block_size
        self.free = list(range(blocks))
        random.Random(seed).shuffle(self.free)
        self.tables: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}

    def inputs(
        self,
        parts: Mapping[str, Sequence[int]],
        *,
        rows: str = "last",
        adapters: Mapping[str, int] | None = None,
    ) -> StepInputs:
        """A step that computes the next tokens of sequences; ``rows`` are ``last`` or ``all``."""
        tokens, positions, slots, starts, lengths, last = [], [], [], [0], [], []
        chosen: list[int] = []
        for name, part in parts.items():
            table, done = self.tables.setdefault(name, []), self.computed.get(name, 0)
            while len(table) * self.block_size < done + len(part):
                table.append(self.free.pop())
            for offset, token in enumerate(part):
                at = done + offset
                tokens.append(token)
                positions.append(at)
                slots.append(table[at // self.block_size] * self.block_size + at % self.block_size)
                chosen.append((adapters or {}).get(name, -1))
            starts.append(len(tokens))
            last.append(len(tokens) - 1)
            self.computed[name] = done + len(part)
            lengths.append(done + len(part))
        width = max(len(self.tables[name]) for name in parts)
        tables = [self.tables[name] + [0] * (width - len(self.tables[name])) for name in parts]
        return StepInputs(
            tokens=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(starts, dtype=torch.int32),
            context_lengths=torch.tensor(lengths, dtype=torch.int32),
            block_tables=torch.tensor(tables, dtype=torch.int32),
            logits_rows=torch.tensor(last if rows == "last" else list(range(len(tokens)))),
            max_query=max(len(part) for part in parts.values()),
            max_context=max(lengths),
            adapters=None if adapters is None else torch.tensor(chosen, dtype=torch.int32),
        )

    def step(
        self,
        parts: Mapping[str, Sequence[int]],
        *,
        rows: str = "last",
        adapters: Mapping[str, int] | None = None,
    ) -> torch.Tensor:
        """Compute the next tokens of sequences: scores of the wanted rows."""
        inputs = self.inputs(parts, rows=rows, adapters=adapters)
        return self.decoder.forward(inputs, self.cache)

    def finish(self, name: str) -> None:
        """Give back a sequence's blocks, unclean as they are."""
        self.free.extend(self.tables.pop(name))
        del self.computed[name]

    def greedy(
        self, prompts: Mapping[str, Sequence[int]], count: int, *, chunk: int = 0
    ) -> dict[str, list[int]]:
        """Likeliest tokens after prompts that are computed ``chunk`` tokens at a time (0: whole).

        A sequence decodes as soon as its prompt is done, in the same steps as others' chunks.
        """
        waiting = {name: list(tokens) for name, tokens in prompts.items()}
        found: dict[str, list[int]] = {name: [] for name in prompts}
        while running := [name for name in prompts if len(found[name]) < count]:
            parts = {}
            for name in running:
                size = chunk or len(waiting[name]) or 1
                parts[name] = waiting[name][:size] or [found[name][-1]]
                waiting[name] = waiting[name][size:]
            scores = self.step(parts)
            for name, row in zip(running, scores, strict=True):
                if not waiting[name]:
                    found[name].append(int(row.argmax()))
        return found
