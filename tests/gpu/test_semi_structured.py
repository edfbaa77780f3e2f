"""2:4 products by cuSPARSELt on a real GPU, and the choice between them and the dense product."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _gpu() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")


def weight_of(route: Any, dtype: str, outputs: int = 256, size: int = 512) -> Any:
    import torch
    from deepseek_kernels.ops.semi_structured import prune_2_4
    from deepseek_kernels.semi_structured import SemiStructuredWeight, obstacle

    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(outputs, size, generator=generator).to(getattr(torch, dtype)).cuda()
    if route != "dense" and (reason := obstacle(dense)):
        pytest.skip(reason)
    pruned = prune_2_4(dense)
    return pruned, SemiStructuredWeight(pruned, route=route)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 7, 8, 64, 1000])
@pytest.mark.parametrize("route", ["cusparselt", "auto", "dense"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_every_route_gives_the_product(route: str, rows: int, dtype: str, with_bias: bool) -> None:
    import torch

    pruned, weight = weight_of(route, dtype)
    x = torch.randn(rows, 512, device="cuda", dtype=pruned.dtype)
    bias = torch.randn(256, device="cuda", dtype=pruned.dtype) if with_bias else None
    wanted = x.double() @ pruned.double().t() + (0 if bias is None else bias.double())
    off = (weight(x, bias).double() - wanted).norm() / wanted.norm()
    assert float(off) < (1e-3 if dtype == "float16" else 8e-3)


def test_compressed_weights_take_nine_sixteenths_of_the_bytes() -> None:
    pruned, weight = weight_of("cusparselt", "float16")
    assert weight.nbytes <= pruned.nbytes * 0.57


def test_a_choice_states_both_times_and_is_the_faster_one() -> None:
    _, weight = weight_of("auto", "float16", 4096, 4096)
    choice = weight.explain(4096)
    assert choice.sparse_ms is not None, choice.reason
    assert choice.dense_ms is not None
    assert (choice.route == "cusparselt") == (choice.sparse_ms <= 0.97 * choice.dense_ms)


def test_nothing_is_measured_while_a_graph_is_captured() -> None:
    import torch

    _, weight = weight_of("auto", "float16")
    x = torch.randn(64, 512, device="cuda", dtype=torch.float16)
    wanted = torch.nn.functional.linear(x, weight_of("dense", "float16")[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = weight(x)
    graph.replay()
    torch.testing.assert_close(y, wanted)
    assert not weight._choices
