"""Judging variants: does the export agree with its module, and which one ``auto`` means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import torch
from deepseek_api.errors import SourceError
from deepseek_api.manifest import Variant

from deepseek_engine.codec import Array
from deepseek_engine.prepare.architectures import LoadedModel
from deepseek_engine.prepare.export import PooledEncoder
from deepseek_engine.prepare.judges import Judge, make_judge
from deepseek_engine.prepare.measure import Feed, answers, cosines
from deepseek_engine.prepare.quant.policy import measured_best

__all__ = ["EXPORT_BOUND", "Judge", "Ranking", "make_judge", "verify_export"]

EXPORT_BOUND = 0.9999
"""The least cosine between an exported fp32 graph and the torch module that it came from."""
CHECKED = 4
"""Samples on which the export is compared with the module."""


def verify_export(model: LoadedModel, session: ort.InferenceSession, judge: Judge) -> None:
    """Compare the exported graph with the torch module on real inputs, one by one and padded.

    Raises:
        SourceError: they do not agree; serving the graph would give wrong answers.
    """
    feeds = list(judge.feeds[:CHECKED])
    if model.family == "encoder":
        feeds.append(_padded_pair(judge.feeds[0], judge.feeds[1]))
    for feed in feeds:
        worst = float(cosines(run_module(model, feed), answers(session, [feed])[0]).min())
        if not worst >= EXPORT_BOUND:
            raise SourceError(
                f"The exported graph of '{model.architecture}' does not agree with the model: "
                f"cosine {worst:.5f}, at least {EXPORT_BOUND} is needed.",
                hint="This architecture cannot be served; nothing was written.",
                reason="ExportDisagrees",
            )


def _padded_pair(first: Feed, second: Feed) -> Feed:
    """Two texts in one batch, the shorter one padded."""
    width = max(first["input_ids"].shape[1], second["input_ids"].shape[1])
    return {
        name: np.concatenate(
            [
                np.pad(feed[name], ((0, 0), (0, width - feed[name].shape[1])))
                for feed in (first, second)
            ]
        )
        for name in ("input_ids", "attention_mask")
    }


def run_module(model: LoadedModel, feed: Feed) -> Array:
    """What the torch module answers in fp32, with its library's own handling of masks."""
    kind = next(model.module.parameters()).dtype
    tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
    tensors = {n: t.to(kind) if t.is_floating_point() else t for n, t in tensors.items()}
    with torch.inference_mode():
        if model.family == "decoder":
            scores: Array = model.module(**tensors).logits.float().numpy()
            return scores
        if model.family != "encoder":
            logits: Array = model.module(*tensors.values()).float().numpy()
            return logits
        hidden = model.module(**tensors).last_hidden_state.float()
        pooling = getattr(model.postprocessing, "pooling", "mean")
        pooled: Array = PooledEncoder.pool(hidden, tensors["attention_mask"], pooling).numpy()
        return pooled


@dataclass(frozen=True, slots=True)
class Ranking:
    """Variants that a processor can run, as ``auto`` sees them."""

    fp32: Variant
    others: Sequence[Variant]

    def best(self) -> Variant:
        """The fastest measured variant within its agreement bound; fp32 if none is faster."""
        return measured_best(
            self.fp32, self.others, keeps_bound=_within_bound, milliseconds=_median_ms
        )


def _within_bound(variant: Variant) -> bool:
    agreement = variant.agreement
    if agreement is None or agreement.mean < agreement.bound:
        return False
    return agreement.worst_bound is None or agreement.worst >= agreement.worst_bound


def _median_ms(variant: Variant) -> float | None:
    return variant.speed.median_ms if variant.speed else None
