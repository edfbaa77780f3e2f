"""What answers a trace of requests: our generator, or transformers on the same weights.

Why it exists: as for the other subjects, each runs in a process of its own, and this module is that
process' inside. Every subject answers the same requests with the same greedy tokens.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generation_trace import CLIENTS, VOCABULARY, Asked, trace

__all__ = ["GENERATION_KINDS", "write_checkpoint"]

_CONTEXT = 512
_WARM_UP = Asked(tuple(range(2, 34)), 8)


def write_checkpoint(folder: str) -> None:
    """Save a Llama of 28 million parameters with random weights, as transformers does."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


class Ours:
    """`LocalGenerator`; with one seat it answers one request after the other."""

    choice = ""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        import torch
        from deepseek_engine.generation.generator import LocalGenerator
        from deepseek_engine.generation.settings import GenerationSettings
        from deepseek_engine.generation.weights import load_decoder

        torch.set_num_threads(spec["threads"])
        settings = GenerationSettings(
            max_sequences=spec["seats"],
            kv_cache_blocks=CLIENTS * _CONTEXT // 16,
            # Turns repeat the trace: what a turn left in the cache must not help the next one.
            prefix_reuse=False,
        )
        decoder = load_decoder(Path(spec["folder"]))
        self._generator = LocalGenerator(decoder, None, settings)
        self._number = 0

    def first(self) -> np.ndarray[Any, Any]:
        """Warm up; the tokens of a short answer."""
        return np.array(self._answer([[_WARM_UP]])["answers"][0])

    def turn(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a trace; every client sends its next request when the last one is answered."""
        self._answer([[_WARM_UP]])
        found = self._answer(trace(command["requests"]))
        del found["answers"]
        return found

    def close(self) -> None:
        """Free the model."""
        self._generator.close()

    def _answer(self, clients: list[list[Asked]]) -> dict[str, Any]:
        queues = [list(reversed(requests)) for requests in clients]
        owners: dict[int, int] = {}
        sent: dict[int, float] = {}
        last: dict[int, float] = {}
        answers: dict[int, list[int]] = {}
        firsts, gaps = [], []
        started = time.perf_counter()
        for client in range(len(queues)):
            self._send(queues, client, owners, sent)
        while (plan := self._generator.plan()) is not None:
            updates = self._generator.commit(plan, self._generator.run(plan))
            now = time.perf_counter()
            for update in updates:
                number = update.sequence
                answers.setdefault(number, []).extend(update.tokens)
                since = last.get(number)
                if since is None:
                    firsts.append((now - sent[number]) * 1e3)
                else:
                    gaps.append((now - since) * 1e3)
                last[number] = now
                if update.finish is not None:
                    self._send(queues, owners[number], owners, sent)
        elapsed = time.perf_counter() - started
        return {
            "elapsed_s": elapsed,
            "tokens": sum(map(len, answers.values())),
            "first_ms": firsts,
            "gap_ms": gaps,
            "answers": [answers[number] for number in sorted(answers)],
        }

    def _send(
        self, queues: list[list[Asked]], client: int, owners: dict[int, int], sent: dict[int, float]
    ) -> None:
        from deepseek_engine.generation.requests import GenerationRequest, SamplingParameters

        if not queues[client]:
            return
        asked = queues[client].pop()
        self._number += 1
        owners[self._number], sent[self._number] = client, time.perf_counter()
        sampling = SamplingParameters(temperature=0.0, max_tokens=asked.tokens, ignore_eos=True)
        request = GenerationRequest(
            model="m", prompt=asked.prompt, sampling=sampling, client=str(client), text=False
        )
        self._generator.add(self._number, request, asked.prompt)


class Transformers:
    """`generate` on batches of as many requests as there are clients, padded on the left."""

    choice = ""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        import torch
        import transformers

        torch.set_num_threads(spec["threads"])
        self._torch = torch
        # Its own annotations do not allow the call.
        self._model: Any = transformers.LlamaForCausalLM.from_pretrained(spec["folder"])

    def first(self) -> np.ndarray[Any, Any]:
        """Warm up; the tokens of a short answer."""
        return np.array(self._generate([_WARM_UP])[0])

    def turn(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a trace, one batch with the next request of every client after the other."""
        self._generate([_WARM_UP])
        clients = trace(command["requests"])
        started = time.perf_counter()
        tokens = 0
        for place in range(command["requests"]):
            batch = [requests[place] for requests in clients]
            tokens += sum(map(len, self._generate(batch)))
        return {"elapsed_s": time.perf_counter() - started, "tokens": tokens}

    def close(self) -> None:
        """Nothing is open."""

    def _generate(self, batch: list[Asked]) -> list[list[int]]:
        torch = self._torch
        width = max(len(asked.prompt) for asked in batch)
        most = max(asked.tokens for asked in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, asked in enumerate(batch):
            ids[place, width - len(asked.prompt) :] = torch.tensor(asked.prompt)
            mask[place, width - len(asked.prompt) :] = 1
        with torch.inference_mode():
            found = self._model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=most,
                min_new_tokens=most,
            )
        # Whoever wanted less is cut; that was computed all the same, as in any fixed batch.
        made = found[:, width:].tolist()
        return [row[: asked.tokens] for row, asked in zip(made, batch, strict=True)]


GENERATION_KINDS: dict[str, Any] = {
    "generation, ours": Ours,
    "generation, transformers": Transformers,
}
"""Subjects by the name that a specification uses."""
