"""The tuner's search and files, with a clock that computes instead of measuring."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepseek_kernels import tunables
from deepseek_kernels.configuration import FOLDER_VARIABLE, KernelConfig, Measurement, load_table
from deepseek_kernels.errors import KernelArgumentError, KernelUnavailableError
from deepseek_kernels.tunables import KERNELS
from deepseek_kernels.tuning import main, search, tune, write_table

STEPS = {"block_m": (16, 32, 64, 128), "num_warps": (2, 4, 8)}


def far_from(block_m: int, num_warps: int) -> Callable[[KernelConfig], float]:
    """Microseconds that grow with the distance from the best configuration."""
    return lambda c: 1.0 + abs(c.block_m - block_m) + abs(c.num_warps - num_warps)


@pytest.mark.parametrize("block_m", STEPS["block_m"])
@pytest.mark.parametrize("num_warps", STEPS["num_warps"])
def test_the_search_finds_the_fastest(block_m: int, num_warps: int) -> None:
    best, microseconds = search(KernelConfig(), STEPS, far_from(block_m, num_warps))
    assert (best.block_m, best.num_warps, microseconds) == (block_m, num_warps, 1.0)


def test_nothing_is_timed_twice() -> None:
    timed: list[KernelConfig] = []
    clock = far_from(64, 8)
    search(KernelConfig(), STEPS, lambda c: timed.append(c) or clock(c))  # type: ignore[func-returns-value]
    assert len(timed) == len(set(timed))


def test_what_does_not_run_is_left_out() -> None:
    best, _ = search(
        KernelConfig(block_m=128), STEPS, lambda c: None if c.block_m > 32 else 1.0 / c.block_m
    )
    assert best.block_m == 32


def test_equals_keep_the_start() -> None:
    assert search(KernelConfig(block_m=64), STEPS, lambda _: 1.0)[0] == KernelConfig(block_m=64)


def test_nothing_that_runs_is_an_error() -> None:
    with pytest.raises(KernelUnavailableError, match="none of 6 configurations near"):
        search(KernelConfig(), STEPS, lambda _: None)


class CountingTimer:
    """Runs each call once and answers with its number."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def __call__(self, calls: Sequence[Callable[[], object]]) -> float | None:
        result = calls[0]()
        assert isinstance(result, torch.Tensor)
        self.shapes.append(result.shape)
        return float(len(self.shapes))


@pytest.mark.parametrize("kernel", ["w4a16_gemv", "w8a8"])
def test_tuning_runs_the_kernel_the_dense_product_and_the_conversion(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"num_stages": (1, 2)}  # the default has more
    tunable = KERNELS[kernel]
    monkeypatch.setitem(KERNELS, kernel, replace(tunable, steps=few))
    timer = CountingTimer()
    cpu = torch.device("cpu")
    found = tune(kernel, 3, 8, 128, timer=timer, device=cpu, gpu="default")
    assert timer.shapes == [(3, 8), (3, 8), (3, 8), (3, 8), (8, 128)]
    assert (found.kernel, found.m, found.n, found.k) == (kernel, 3, 8, 128)
    assert (found.microseconds, found.dense_microseconds) == (1, 4)
    assert found.dequantize_microseconds == 5


@pytest.mark.parametrize(
    ("kernel", "shape", "result"),
    [
        pytest.param("sparse_gemv", (3, 8, 128), (3, 8), id="sparse_gemv"),
        pytest.param("conv3d", (5, 4**3, 2 * 27), (1, 5, 4, 4, 4), id="conv3d"),
    ],
)
def test_what_has_no_quantized_weight_is_timed_beside_its_dense_form(
    kernel: str,
    shape: tuple[int, int, int],
    result: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KERNELS, kernel, replace(KERNELS[kernel], steps={"num_stages": (2, 3)}))
    monkeypatch.setattr(tunables, "_OVERFLOW", 4096)
    timer = CountingTimer()
    found = tune(kernel, *shape, timer=timer, device=torch.device("cpu"), gpu="default")
    assert timer.shapes == [result] * 3
    assert (found.m, found.n, found.k) == shape
    assert (found.dense_microseconds, found.dequantize_microseconds) == (3, 0)


@pytest.mark.parametrize(
    ("kernel", "shape", "message"),
    [
        ("w4a16_gemv", (9, 8, 128), "m: 9 is not for w4a16_gemv; give 1 to 8"),
        ("w8a16_gemm", (8, 8, 128), "m: 8 is not for w8a16_gemm; give 9 to"),
        ("sparse_gemv", (17, 8, 128), "m: 17 is not for sparse_gemv; give 1 to 16"),
        ("conv3d", (4, 65, 54), "65 positions of 54 products are no cube"),
    ],
)
def test_a_shape_that_a_kernel_does_not_compute_is_refused(
    kernel: str, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        tune(kernel, *shape, timer=CountingTimer(), device=torch.device("cpu"), gpu="default")


def test_a_dense_product_that_does_not_run_is_no_time_of_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KERNELS, "w8a8", replace(KERNELS["w8a8"], steps={}))
    times = iter([5.0, None])
    with pytest.raises(KernelUnavailableError, match="the dense product of this shape"):
        tune(
            "w8a8", 3, 8, 128, timer=lambda _: next(times), device=torch.device("cpu"),
            gpu="default",
        )  # fmt: skip


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(KernelArgumentError, match="kernel: 'x' is unknown; give one of w4a16_gemv"):
        tune("x", 1, 1, 1, timer=CountingTimer(), device=torch.device("cpu"), gpu="default")


def measurement(m: int, microseconds: float) -> Measurement:
    return Measurement("w8a8", m, 10, 20, KernelConfig(block_m=64), microseconds, 9.0, 3.0)


def test_what_is_written_is_what_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "a100.json", "NVIDIA A100", "measured", [measurement(4, 5.0)])
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    table = load_table("a100")
    assert table.measurement("w8a8", 3, 10, 20) == measurement(4, 5.0)
    assert (table.gpu, table.source) == ("NVIDIA A100", "measured")
    assert table.config("fp8_row", 4096, 1, 1) == load_table("default").config(
        "fp8_row", 4096, 1, 1
    )


def test_a_new_measurement_replaces_only_its_own_shape(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a100.json"
    write_table(path, "A100", "first", [measurement(4, 5.0), measurement(8, 6.0)])
    write_table(path, "A100", "second", [measurement(8, 4.0)])
    entries = json.loads(path.read_text())["measured"]
    assert [(entry["m"], entry["microseconds"]) for entry in entries] == [(4, 5.0), (8, 4.0)]
    assert sorted(found.name for found in path.parent.iterdir()) == ["a100.json"]


def test_a_file_of_something_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a100.json"
    path.write_text("notes")
    with pytest.raises(KernelArgumentError, match=r"a100\.json: is no JSON"):
        write_table(path, "A100", "first", [measurement(4, 5.0)])
    assert path.read_text() == "notes"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_command_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device here" in capsys.readouterr().err
