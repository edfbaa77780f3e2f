"""``deepseek_fuse``: the same numbers, folded only where folding means the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deepseek_kernels.fusion import deepseek_fuse
from deepseek_kernels.ops.folded_conv import fold_batch_norm
from torch import Tensor

Parts = dict[str, Tensor]


def parts(channels: int = 8, inputs: int = 3, *, groups: int = 1, seed: int = 0) -> Parts:
    random = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(channels, inputs // groups, 3, 3, generator=random),
        "bias": torch.randn(channels, generator=random),
        "gamma": torch.rand(channels, generator=random) + 0.5,
        "beta": torch.randn(channels, generator=random),
        "running_mean": torch.randn(channels, generator=random),
        "running_var": torch.rand(channels, generator=random) + 0.1,
    }


def block(
    x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor,
    running_mean: Tensor, running_var: Tensor,
) -> Tensor:  # fmt: skip
    x = F.conv2d(x, weight, bias, padding=1)
    x = F.batch_norm(x, running_mean, running_var, gamma, beta)
    return F.relu(x)


def positional(
    x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor,
    running_mean: Tensor, running_var: Tensor,
) -> Tensor:  # fmt: skip
    y = torch.conv2d(x, weight, bias, (1, 2), (2, 1))
    return F.batch_norm(y, running_mean, running_var, gamma, beta, False, 0.1, 1e-4).relu()


def residual(
    x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor,
    running_mean: Tensor, running_var: Tensor,
) -> Tensor:  # fmt: skip
    for _ in range(2):
        y = F.conv2d(x, weight, bias, padding=1, groups=4)
        y = torch.relu(F.batch_norm(y, running_mean, running_var, gamma, beta))
        x = torch.sigmoid(y) + x
    return x


@pytest.mark.parametrize(
    ("function", "fields", "inputs", "places"),
    [
        pytest.param(block, {}, 3, 1, id="as documented"),
        pytest.param(positional, {}, 3, 1, id="arguments by place"),
        pytest.param(residual, {"inputs": 8, "groups": 4}, 8, 2, id="twice, groups, and a sum"),
    ],
)
@pytest.mark.parametrize("shape", [(1, 9, 9), (4, 16, 7)], ids=str)
def test_the_result_is_the_functions(
    function: Callable[..., Tensor],
    fields: dict[str, Any],
    inputs: int,
    places: int,
    shape: tuple[int, int, int],
) -> None:
    fused, given = deepseek_fuse(function), parts(**fields)
    x = torch.randn(shape[0], inputs, *shape[1:])
    torch.testing.assert_close(fused(x, **given), function(x, **given), rtol=1e-4, atol=1e-5)
    assert not fused.reason
    (trace,) = fused._traces.values()
    assert len(trace.places) == places


def counted_folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every folding."""
    folds: list[int] = []

    def fold(*given: Any) -> tuple[Tensor, Tensor]:
        folds.append(1)
        return fold_batch_norm(*given)

    monkeypatch.setattr("deepseek_kernels.fusion.fold_batch_norm", fold)
    return folds


def test_weights_are_folded_once_and_again_when_a_tensor_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folds = counted_folds(monkeypatch)
    fused, given, x = deepseek_fuse(block), parts(), torch.randn(1, 3, 8, 8)

    def check(count: int) -> None:
        torch.testing.assert_close(fused(x, **given), block(x, **given), rtol=1e-4, atol=1e-5)
        assert len(folds) == count

    check(1)
    check(1)
    for count, name in enumerate(given, start=2):
        given[name].add_(0.25)  # the same object, written in place
        check(count)
    given["weight"] = given["weight"].clone()  # another object with the same numbers
    check(8)
    check(8)
    given["gamma"].data.mul_(2)  # raises no version
    fused.refresh()
    check(9)


def test_two_sets_of_weights_are_kept_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    folds = counted_folds(monkeypatch)
    fused, x = deepseek_fuse(block), torch.randn(1, 3, 8, 8)
    first, second = parts(seed=1), parts(seed=2)
    for _ in range(3):
        for given in (first, second):
            torch.testing.assert_close(fused(x, **given), block(x, **given), rtol=1e-4, atol=1e-5)
    assert len(folds) == 2


def test_training_statistics_are_updated_as_the_function_does() -> None:
    def trains(x: Tensor, training: bool, **p: Tensor) -> Tensor:
        y = F.conv2d(x, p["weight"], p["bias"])
        return F.relu(
            F.batch_norm(
                y, p["running_mean"], p["running_var"], p["gamma"], p["beta"], training, 0.5
            )
        )

    def by_name(
        x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor,
        running_mean: Tensor, running_var: Tensor, training: bool = False,
    ) -> Tensor:  # fmt: skip
        return trains(
            x, training, weight=weight, bias=bias, gamma=gamma, beta=beta,
            running_mean=running_mean, running_var=running_var,
        )  # fmt: skip

    fused, x = deepseek_fuse(by_name), torch.randn(4, 3, 8, 8)
    own: dict[str, Any] = dict(parts())
    other: dict[str, Any] = dict(parts())
    torch.testing.assert_close(
        fused(x, **own, training=True), by_name(x, **other, training=True), rtol=0, atol=0
    )
    assert "statistics of the batch" in fused.reason
    torch.testing.assert_close(own["running_mean"], other["running_mean"], rtol=0, atol=0)
    # And the next call in evaluation uses what the training has left.
    torch.testing.assert_close(fused(x, **own), by_name(x, **other), rtol=1e-4, atol=1e-5)
    assert not fused.reason


def test_gradients_are_those_of_the_function() -> None:
    fused, given, x = deepseek_fuse(block), parts(), torch.randn(2, 3, 6, 6)
    given["weight"].requires_grad_()
    fused(x, **given).sum().backward()
    assert fused.reason == "gradients are wanted"
    assert given["weight"].grad is not None
    with torch.no_grad():
        fused(x, **given)
    assert not fused.reason


def test_what_cannot_be_captured_runs_as_it_is_written() -> None:
    def branches(
        x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor,
        running_mean: Tensor, running_var: Tensor,
    ) -> Tensor:  # fmt: skip
        return x if x.sum() > 0 else block(
            x, weight, bias, gamma, beta, running_mean, running_var
        )  # fmt: skip

    fused, given = deepseek_fuse(branches), parts()
    for x in (torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)):
        torch.testing.assert_close(fused(x, **given), branches(x, **given), rtol=0, atol=0)
        assert "cannot be captured" in fused.reason


@pytest.mark.parametrize(
    ("function", "words"),
    [
        pytest.param(lambda x, w, m, v: F.relu(F.conv2d(x, w)), "no batch norm", id="no norm"),
        pytest.param(
            lambda x, w, m, v: F.batch_norm(x, m, v), "does not follow", id="no convolution"
        ),
        pytest.param(
            lambda x, w, m, v: (y := F.conv2d(x, w)) + F.batch_norm(y, m, v),
            "used besides",
            id="used twice",
        ),
    ],
)
def test_a_function_with_nothing_to_fold_says_so(
    function: Callable[..., Tensor], words: str
) -> None:
    fused = deepseek_fuse(function)
    given = (torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3), torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(fused(*given), function(*given), rtol=0, atol=0)
    assert words in fused.reason


def test_statistics_that_cannot_be_folded_give_what_the_function_gives() -> None:
    fused, given, x = deepseek_fuse(block), parts(), torch.randn(1, 3, 8, 8)
    given["running_var"][0] = float("nan")
    torch.testing.assert_close(fused(x, **given), block(x, **given), equal_nan=True)
    assert "running_var" in fused.reason


def test_in_inference_mode_the_result_is_right_whatever_was_written() -> None:
    fused, x = deepseek_fuse(block), torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        given = parts()
        for _ in range(2):
            torch.testing.assert_close(fused(x, **given), block(x, **given), rtol=1e-4, atol=1e-5)
            given["beta"] += 1.0


@pytest.mark.parametrize("argument", [[1], {"a": 1}, object()], ids=["list", "dict", "object"])
def test_an_argument_that_is_no_plain_value_is_left_to_the_function(argument: object) -> None:
    def takes(x: Tensor, w: Tensor, m: Tensor, v: Tensor, what: object) -> Tensor:
        return F.batch_norm(F.conv2d(x, w), m, v)

    fused = deepseek_fuse(takes)
    given = (torch.randn(1, 3, 8, 8), torch.randn(3, 3, 3, 3), torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(fused(*given, argument), takes(*given, argument))
    assert "plain value" in fused.reason
