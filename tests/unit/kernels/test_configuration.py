"""Tables of tile sizes: what is shipped, what is looked up, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deepseek_kernels.configuration import (
    FOLDER_VARIABLE,
    KernelConfig,
    Measurement,
    Table,
    gpu_slug,
    load_table,
)
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.tunables import KERNELS

SMALL, LARGE = KernelConfig(block_m=16), KernelConfig(block_m=128)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H200", "h200"),
        ("Some New GPU", "some-new-gpu"),
    ],
)
def test_a_gpu_is_known_by_its_model(name: str, slug: str) -> None:
    assert gpu_slug(name) == slug


@pytest.mark.parametrize("gpu", ["default", "h100", "a GPU that nobody knows"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_configured_for_every_gpu(kernel: str, gpu: str) -> None:
    for m in (1, 8, 9, 64, 65, 256, 100_000):
        assert isinstance(load_table(gpu).config(kernel, m, 4096, 4096), KernelConfig)


def test_what_was_not_measured_says_so() -> None:
    for gpu in ("default", "h100"):
        table = load_table(gpu)
        assert table.measured or "not measured" in table.source


def table(*measured: Measurement) -> Table:
    return Table("gpu", "test", {"k": ((8, SMALL), (64, LARGE))}, measured)


@pytest.mark.parametrize(("m", "expected"), [(1, SMALL), (8, SMALL), (9, LARGE), (65, LARGE)])
def test_without_a_measurement_the_number_of_tokens_decides(m: int, expected: KernelConfig) -> None:
    assert table().config("k", m, 10, 20) == expected


def test_a_measured_shape_wins_and_the_next_larger_number_of_tokens_counts() -> None:
    four, eight = KernelConfig(num_warps=8), KernelConfig(num_warps=2)
    measured = table(
        Measurement("k", 8, 10, 20, eight, 1.0, 2.0), Measurement("k", 4, 10, 20, four, 1.0, 2.0)
    )
    assert [measured.config("k", m, 10, 20) for m in (1, 4, 5, 8, 9)] == [
        four,
        four,
        eight,
        eight,
        LARGE,
    ]
    assert measured.config("k", 4, 10, 21) == SMALL


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(KernelArgumentError, match="kernel: 'x' has no configuration"):
        table().config("x", 1, 1, 1)


@pytest.mark.parametrize(
    ("config", "tiles", "steps", "expected"),
    [
        (KernelConfig(split_k=1), 1, 100, 1),
        (KernelConfig(split_k=4), 1, 100, 4),
        (KernelConfig(split_k=4), 1, 3, 3),
        (KernelConfig(split_k=0), 1, 100, 16),
        (KernelConfig(split_k=0), 64, 100, 8),
        (KernelConfig(split_k=0), 1000, 100, 1),
        (KernelConfig(split_k=0), 1, 1, 1),
    ],
    ids=["one", "given", "few steps", "fill", "half full", "full", "one step"],
)
def test_k_is_split_to_fill_the_gpu(
    config: KernelConfig, tiles: int, steps: int, expected: int
) -> None:
    assert config.parts(tiles, steps, processors=132) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_m": 48}, "block_m: 48 is no power of 2"),
        ({"num_warps": 0}, "num_warps: 0 is no power of 2"),
        ({"split_k": -1}, "split_k, group_m, num_stages: are too small"),
        ({"block_q": 1}, r"config: unknown names \['block_q'\]"),
    ],
    ids=["no power", "none", "negative", "unknown"],
)
def test_an_impossible_configuration_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        KernelConfig.from_json(fields)


def test_a_folder_of_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "kernels": {"w8a8": [{"max_m": 9, "config": {"block_m": 32}}]},
        "gpu": "x",
        "source": "s",
    }
    (tmp_path / "h100.json").write_text(json.dumps(own))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert load_table("h100").config("w8a8", 4096, 1, 1).block_m == 32
    assert load_table("h100").config("fp8_row", 4096, 1, 1).num_stages == 4


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"gpu": "x"}', '{"gpu": "x", "source": "", "kernels": {"k": [{"max_m": 1}]}}'],
    ids=["no JSON", "a list", "no kernels", "no config"],
)
def test_a_file_that_is_no_table_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h100.json").write_text(text)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(KernelArgumentError, match=r"h100\.json: is no table of kernel"):
        load_table("h100")
