"""The calls that GPU benches make of their peers, held to the peers' own code.

Runs where ``make bench-gpu-wheels`` has fetched them (or they are installed), as far as a machine
without a GPU can: torchao and bitsandbytes compute on the processor, the signatures of liger-kernel
are bound, GemLite, which cannot be imported without a GPU, is read.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import linear_peers
from benchmarks.gpu.peers import SITE, find

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SITE))
    # Before they are imported: what is compiled says nothing about a call, and takes minutes.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def module_of(name: str, distribution: str) -> object:
    peer, module = find(name, distribution=distribution)
    if not peer.there:
        pytest.skip(peer.reason)
    return module


W = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
X = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


def off(given: object) -> float:
    assert isinstance(given, torch.Tensor)
    wanted = X[: len(given)].double() @ W.double().t()
    return float((given.double() - wanted).norm() / wanted.norm())


def test_torchao_quantizes_a_layer() -> None:
    module = module_of("torchao.quantization", "torchao")
    call = linear_peers.torchao(module, "Int8WeightOnlyConfig", W, X)
    assert off(call()) < 2e-2


@pytest.mark.parametrize("rows", [1, 3])
def test_bitsandbytes_multiplies_by_nf4(rows: int) -> None:
    module = module_of("bitsandbytes", "bitsandbytes")
    assert off(linear_peers.bitsandbytes_nf4(module, W, X[:rows])()) < 0.15


@pytest.mark.parametrize(
    ("name", "function", "arguments"),
    [
        ("rms_norm", "LigerRMSNormFunction", (X, W[0], 1e-5, 0.0, "llama", False)),
        ("swiglu", "LigerSiLUMulFunction", (X, X)),
        ("rope", "LigerRopeFunction", (X, X, X, X)),
    ],
    ids=["norm", "gate", "rope"],
)
def test_liger_takes_our_arguments(name: str, function: str, arguments: tuple[object, ...]) -> None:
    module = module_of(f"liger_kernel.ops.{name}", "liger-kernel")
    forward = inspect.unwrap(getattr(module, function).forward)
    inspect.signature(forward).bind(None, *arguments)


def classes_of_gemlite() -> Iterator[tuple[str, ast.ClassDef]]:
    spec = importlib.util.find_spec("gemlite")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gemlite is neither installed nor carried")
    source = (Path(next(iter(spec.submodule_search_locations))) / "helper.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield node.name, node


@pytest.mark.parametrize(
    ("name", "made_with", "weights"),
    [
        ("A16Wn", {"device", "dtype"}, ["W_q", "scales", "zeros", "W_nbits", "group_size"]),
        ("A16W8_INT8", {"device", "dtype"}, ["weight"]),
        ("A8W8_int8_dynamic", {"device", "dtype"}, ["weight"]),
        ("A8W8_fp8_dynamic", {"device", "dtype", "block_quant"}, ["weight"]),
    ],
    ids=str,
)
def test_gemlite_has_the_processors(name: str, made_with: set[str], weights: list[str]) -> None:
    classes = dict(classes_of_gemlite())

    def parameters(owner: str, method: str) -> list[str]:
        for node in classes[owner].body:
            if isinstance(node, ast.FunctionDef) and node.name == method:
                return [argument.arg for argument in node.args.args[1:]]
        (base,) = (base.id for base in classes[owner].bases if isinstance(base, ast.Name))
        return parameters(base, method)

    assert made_with <= set(parameters(name, "__init__"))
    assert parameters(name, "from_weights")[: len(weights)] == weights
