"""Which implementation multiplies: the rule, what measurements change, how it is overruled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from deepseek_kernels.configuration import KernelConfig, Measurement, Table, load_table
from deepseek_kernels.dispatch import VARIABLE, explain, linear, quantized_linear
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import fp8_block, fp8_row, w8a8
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.tunables import SHAPES
from deepseek_kernels.weights import QuantizedWeight

from tests.support.kernels import assert_near, random_matrix

GPU = torch.device("cuda")
DEFAULT = load_table("default")


def described(scheme: str, N: int = 4096, K: int = 4096, group_size: int = 128) -> QuantizedWeight:
    """A weight without memory."""
    dtype = {"int8": torch.int8, "int4": torch.int32}.get(scheme, torch.float8_e4m3fn)
    scale = {
        "int4": (N, K // group_size),
        "fp8-block": (-(-N // 128), -(-K // 128)),
    }.get(scheme, (N, 1))
    fields: dict[str, Any] = {"group_size": group_size, "layout": "tiles"}
    return QuantizedWeight(
        scheme,  # type: ignore[arg-type]
        torch.empty(N, -(-K // 128) * 16 if scheme == "int4" else K, dtype=dtype, device="meta"),
        torch.empty(scale, device="meta"),
        (N, K),
        **(fields if scheme == "int4" else {}),
    )


def chosen(M: int, weight: QuantizedWeight, **options: Any) -> str:
    """The implementation on a GPU with float8."""
    given: dict[str, Any] = {"device": GPU, "table": DEFAULT, "float8": True} | options
    return explain(M, weight, **given).implementation


RULE = [
    ("int4", "none", {1: "w4a16", 8: "w4a16", 64: "w4a16", 65: "dense", 256: "dense"}),
    ("int8", "none", {1: "w8a16", 8: "w8a16", 64: "w8a16", 65: "dense", 256: "dense"}),
    ("int8", "int8", {1: "w8a16", 64: "w8a16", 65: "dense", 255: "dense", 256: "w8a8"}),
    ("fp8", "none", {1: "w8a16", 64: "w8a16", 65: "dense", 4096: "dense"}),
    ("fp8", "fp8", {1: "w8a16", 64: "w8a16", 65: "fp8-row", 256: "fp8-row"}),
    ("fp8-block", "fp8", {1: "fp8-block", 65: "fp8-block", 4096: "fp8-block"}),
    ("fp8-block", "none", {1: "dense", 64: "dense", 256: "dense"}),
]


@pytest.mark.parametrize(
    ("scheme", "activations", "expected"), RULE, ids=[f"{s} {a}" for s, a, _ in RULE]
)
def test_the_number_of_tokens_decides(
    scheme: str, activations: str, expected: dict[int, str]
) -> None:
    weight = described(scheme)
    assert {M: chosen(M, weight, activations=activations) for M in expected} == expected


@pytest.mark.parametrize(
    ("M", "kernel"), [(1, "w4a16_gemv"), (8, "w4a16_gemv"), (9, "w4a16_gemm"), (64, "w4a16_gemm")]
)
def test_the_kernel_and_its_tiles_are_told(M: int, kernel: str) -> None:
    choice = explain(M, described("int4"), device=GPU, table=DEFAULT)
    assert choice.kernel == kernel
    assert choice.config == DEFAULT.config(kernel, M, 4096, 4096)


BENCHMARK = [(N, K) for group in SHAPES.values() for N, K in group]
REGIMES = {
    "int4 weights, few tokens": ("int4", "none", (1, 2, 4, 8, 16, 32, 64)),
    "int8 weights, few tokens": ("int8", "none", (1, 2, 4, 8, 16, 32, 64)),
    "int8, many tokens": ("int8", "int8", (256, 1024, 4096)),
    "fp8, many tokens": ("fp8", "fp8", (256, 1024, 4096)),
    "fp8 blocks, many tokens": ("fp8-block", "fp8", (256, 1024, 4096)),
}


@pytest.mark.parametrize("gpu", ["default", "h100"])
@pytest.mark.parametrize(("scheme", "activations", "tokens"), REGIMES.values(), ids=REGIMES.keys())
def test_in_its_regime_the_quantized_path_takes_most_benchmark_shapes(
    scheme: str, activations: str, tokens: tuple[int, ...], gpu: str
) -> None:
    picks = [
        chosen(M, described(scheme, N, K), activations=activations, table=load_table(gpu))
        for N, K in BENCHMARK
        for M in tokens
    ]
    assert sum(pick != "dense" for pick in picks) / len(picks) >= 0.7


@pytest.mark.parametrize("scheme", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("M", [256, 1024, 8192])
def test_many_tokens_never_take_a_weight_only_kernel(scheme: str, M: int) -> None:
    assert chosen(M, described(scheme)) == "dense"


def measured(kernel: str, M: int, microseconds: float, dense: float = 10.0) -> Table:
    entry = Measurement(
        kernel,
        M,
        4096,
        4096,
        KernelConfig(block_m=32),
        microseconds,
        dense,
        dequantize_microseconds=5,
    )
    return replace(DEFAULT, measured=(entry,))


@pytest.mark.parametrize(
    ("microseconds", "has_dense", "expected"),
    [(10.4, True, "w4a16"), (10.6, True, "dense"), (15.7, False, "w4a16"), (15.8, False, "dense")],
    ids=["within 5 %", "slower", "within 5 % with conversion", "slower with conversion"],
)
def test_what_was_measured_slower_than_dense_gives_way(
    microseconds: float, has_dense: bool, expected: str
) -> None:
    table = measured("w4a16_gemv", 8, microseconds)
    assert chosen(5, described("int4"), table=table, has_dense=has_dense) == expected


@pytest.mark.parametrize(("microseconds", "expected"), [(9.0, "w8a8"), (19.0, "dense")])
def test_between_the_regimes_a_measurement_decides(microseconds: float, expected: str) -> None:
    table = measured("w8a8", 128, microseconds)
    assert chosen(128, described("int8"), activations="int8", table=table) == expected


def test_the_reason_holds_the_measurement() -> None:
    table = measured("w8a8", 512, 7.5)
    choice = explain(
        512, described("int8"), activations="int8", device=GPU, table=table, has_dense=True
    )
    assert choice.reason == "measured 7.5 us against 10.0 us for dense"
    assert choice.config == KernelConfig(block_m=32)
    assert choice.measurement == table.measured[0]


def test_a_gpu_without_float8_multiplies_dense() -> None:
    assert chosen(4, described("fp8"), float8=False) == "dense"
    assert chosen(4, described("int8"), float8=False) == "w8a16"


def test_groups_that_no_kernel_takes_are_multiplied_dense() -> None:
    choice = explain(1, described("int4", 64, 96, group_size=48), device=GPU, table=DEFAULT)
    assert (choice.implementation, choice.reason) == ("dense", "no kernel takes groups of 48")


def test_the_argument_overrules() -> None:
    assert chosen(1, described("int8"), implementation="w8a8") == "w8a8"
    assert chosen(1, described("int8"), implementation="dense") == "dense"


def test_the_variable_overrules_and_the_argument_overrules_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "dense")
    assert chosen(1, described("int8")) == "dense"
    assert chosen(1, described("int8"), implementation="w8a16") == "w8a16"
    monkeypatch.setenv(VARIABLE, "auto")
    assert chosen(1, described("int8")) == "w8a16"


def test_what_cannot_overrule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelArgumentError, match="asks for w4a16, which does not take int8; give"):
        chosen(1, described("int8"), implementation="w4a16")
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(KernelArgumentError, match=f"{VARIABLE}: 'fastest' is unknown; set one of"):
        chosen(1, described("int8"))


@pytest.mark.parametrize(
    ("scheme", "activations", "message"),
    [
        ("int4", "int8", "int8 and int4 weights have no kernel; give 'none'"),
        ("int8", "fp8", "fp8 and int8 weights have no kernel"),
        ("int8", "int4", "'int4' is unknown; give one of none, int8, fp8"),
    ],
)
def test_activations_that_no_kernel_takes_are_named(
    scheme: str, activations: str, message: str
) -> None:
    with pytest.raises(KernelArgumentError, match=f"activations: {message}"):
        chosen(1, described(scheme), activations=activations)


X = random_matrix(6, 64, seed=1).view(2, 3, 64)
BIAS = random_matrix(1, 5, seed=3)[0]
OPTIONS: dict[str, dict[str, Any]] = {
    "int4": {"scheme": "int4", "group_size": 32, "symmetric": False},
    "int8": {"scheme": "int8"},
    "fp8": {"scheme": "fp8"},
    "fp8-block": {"scheme": "fp8-block"},
}


def small(scheme: str) -> QuantizedWeight:
    return quantize_weight(random_matrix(5, 64, seed=2), **OPTIONS[scheme])


@pytest.mark.parametrize("scheme", OPTIONS)
@pytest.mark.parametrize("implementation", [None, "dense"])
def test_on_a_cpu_it_multiplies(scheme: str, implementation: Any) -> None:
    weight = small(scheme)
    y = linear(X, weight, BIAS, epilogue="gelu", implementation=implementation)
    expected = X.double() @ weight.dequantize(torch.float64).T + BIAS.double()
    assert y.shape == (2, 3, 5)
    assert_near(y, torch.nn.functional.gelu(expected))


@pytest.mark.parametrize(
    ("scheme", "activations", "operation"),
    [("int8", "int8", w8a8), ("fp8", "fp8", fp8_row), ("fp8-block", "fp8", fp8_block)],
)
def test_on_a_cpu_activations_are_quantized_as_asked(
    scheme: str, activations: Any, operation: Any
) -> None:
    weight = small(scheme)
    y = linear(X, weight, BIAS, activations=activations)
    assert torch.equal(y.view(6, 5), operation.reference(X.view(6, 64), weight, BIAS))


@pytest.mark.parametrize(
    ("scheme", "implementation"),
    [
        ("int4", "w4a16"),
        ("int8", "w8a16"),
        ("int8", "w8a8"),
        ("fp8", "fp8-row"),
        ("fp8-block", "fp8-block"),
    ],
)
def test_each_implementation_is_reached(scheme: str, implementation: Any) -> None:
    weight = small(scheme)
    y = linear(X, weight, BIAS, implementation=implementation)
    expected = X.double() @ weight.dequantize(torch.float64).T + BIAS.double()
    assert_near(y, expected, 5e-2)


def test_a_dense_weight_of_the_caller_is_used() -> None:
    dense = torch.zeros(5, 64)
    y = linear(X, small("int8"), BIAS, implementation="dense", dense=dense)
    assert torch.equal(y, BIAS.expand(2, 3, 5))


@pytest.mark.parametrize("implementation", [None, "w4a16", "dense"])
def test_a_compiled_graph_holds_it_for_any_number_of_tokens(implementation: Any) -> None:
    weight = small("int4")

    def call(x: torch.Tensor) -> torch.Tensor:
        return linear(x, weight, BIAS, epilogue="gelu", implementation=implementation)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 3, 70):
        x = random_matrix(tokens, 64, seed=tokens)
        assert torch.equal(compiled(x), call(x))


@pytest.mark.parametrize(
    ("name", "text"), [("scheme", "int5"), ("activations", "int5"), ("implementation", "fastest")]
)
def test_the_operation_names_what_it_does_not_know(name: str, text: str) -> None:
    weight = small("int8")
    named = {"scheme": "int8", "activations": "none", "implementation": ""} | {name: text}
    with pytest.raises(KernelArgumentError, match=f"{name}: '{text}' is unknown; give one of"):
        quantized_linear(
            X[0],
            weight.data,
            weight.scale,
            None,
            named["scheme"],
            0,
            False,
            None,
            None,
            named["activations"],
            False,
            named["implementation"],
        )


def test_no_tokens_give_no_rows() -> None:
    assert linear(torch.empty(2, 0, 64), small("int8")).shape == (2, 0, 5)


def test_one_token_may_be_a_vector() -> None:
    y = linear(X[0, 0], small("int8"))
    assert y.shape == (5,)
    assert_near(y, linear(X, small("int8"))[0, 0], 1e-6)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.ones(2, 63), {}, r"x: is \[2, 63\]; give \[..., 64\]"),
        (torch.tensor(1.0), {}, "x: is"),
        (torch.ones(2, 64), {"epilogue": "relu"}, "epilogue: 'relu' is unknown"),
        (
            torch.ones(2, 64),
            {"implementation": "dense", "dense": torch.ones(5, 63)},
            r"dense: is torch.float32 \[5, 63\]",
        ),
    ],
    ids=["K", "number", "epilogue", "dense"],
)
def test_what_does_not_fit_is_named(x: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        linear(x, small("int8"), **options)
