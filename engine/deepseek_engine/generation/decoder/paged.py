"""Attention of a step's tokens over the paged cache, in plain torch.

Why it exists: the definition of what attention computes here, and what processors run. Softmax is
in fp32. Query heads that share a head of keys are rows of one product, so that keys and values are
gathered once and never repeated. GPUs use `kernels` where those can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from deepseek_engine.generation.decoder.cache import LayerCache
from deepseek_engine.generation.decoder.plan import Group, StepPlan

__all__ = ["attend", "attend_latent"]


def attend(
    queries: torch.Tensor, cache: LayerCache, plan: StepPlan, *, scale: float, window: int
) -> torch.Tensor:
    """Attention of rotated queries; this step's keys and values are in the cache already.

    Args:
        queries: ``[T, heads, dim]``.
        cache: of the layer.
        plan: of the step.
        scale: factor of the scores.
        window: positions that a token sees, its own included; 0: all.

    Returns:
        ``[T, heads, dim]`` of values; rows that belong to no sequence or see nothing are zero.
    """

    def compute(rows: torch.Tensor, group: Group) -> torch.Tensor:
        keys, values = cache.read(group.blocks, queries.dtype)
        return _product(rows, keys, values, group, scale)

    return _by_group(queries, cache.values.data.shape[-1], plan.groups(window), compute)


def attend_latent(
    plain: torch.Tensor, rotated: torch.Tensor, cache: LayerCache, plan: StepPlan, *, scale: float
) -> torch.Tensor:
    """Attention over cached latents, which are keys (beside a rotated part) and values in one.

    Args:
        plain: ``[T, heads, rank]``: queries that were folded into the space of the latents.
        rotated: ``[T, heads, rope_dim]``.
        cache: of the layer: rotated key parts as keys, latents as values, one head of each.
        plan: of the step.
        scale: factor of the scores.

    Returns:
        ``[T, heads, rank]``: weighted sums of latents.
    """

    def compute(rows: torch.Tensor, group: Group) -> torch.Tensor:
        turned, latents = cache.read(group.blocks, rows.dtype)
        return _product(rows, torch.cat((latents, turned), -1), latents, group, scale)

    return _by_group(torch.cat((plain, rotated), -1), plain.shape[-1], plan.groups(0), compute)


def _by_group(
    queries: torch.Tensor,
    width: int,
    groups: Sequence[Group],
    compute: Callable[[torch.Tensor, Group], torch.Tensor],
) -> torch.Tensor:
    if len(groups) == 1 and groups[0].rows is None:
        return compute(queries, groups[0])
    found = queries.new_zeros(*queries.shape[:2], width)
    for group in groups:
        assert group.rows is not None  # only a group that is alone has all rows
        found.index_copy_(0, group.rows, compute(queries[group.rows], group))
    return found


def _product(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    group: Group,
    scale: float,
) -> torch.Tensor:
    """``[S * Q, heads, dim]`` over ``[S, L, kv_heads, dim]`` to ``[S * Q, heads, value dim]``."""
    heads, shared = queries.shape[1], keys.shape[2]
    folded = queries.view(group.sequences, group.queries, shared, heads // shared, -1)
    # [S, kv_heads, heads of it x Q, dim]: rows of one product.
    folded = folded.permute(0, 2, 3, 1, 4).flatten(2, 3)
    visible = group.visible
    if group.queries > 1 and heads > shared:
        visible = visible.repeat(1, 1, heads // shared, 1)
    found = torch.nn.functional.scaled_dot_product_attention(
        folded, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=visible, scale=scale
    )
    found = found.view(group.sequences, shared, heads // shared, group.queries, -1)
    return found.permute(0, 3, 1, 2, 4).reshape(len(queries), heads, -1)
