"""Which layer gets which scheme, and what happens where a shape does not allow it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from deepseek_api.errors import PrecisionError
from deepseek_engine.prepare.quant.kinds import Layer, LayerType, WeightKind, type_of
from deepseek_engine.prepare.quant.policy import (
    KEEP,
    Policy,
    Rule,
    for_precision,
    measured_best,
    mixed,
    policy_named,
    uniform,
)
from deepseek_engine.quant.schemes import SCHEMES
from hypothesis import given
from hypothesis import strategies as st


def layer(
    name: str = "layers.0.mlp.fc1",
    shape: tuple[int, ...] = (256, 256),
    kind: WeightKind = "linear",
    type: LayerType | None = None,
) -> Layer:
    return Layer(name, type or type_of(name, kind), kind, shape)


def chosen(policy: Policy, of: Layer) -> str:
    choice = policy.choose(of)
    return choice.scheme.name if choice.scheme else KEEP


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (LayerType.ATTENTION, "fp16"),
        (LayerType.FEED_FORWARD, "int8"),
        (LayerType.CONVOLUTION, "int8"),
        (LayerType.EMBEDDING, "int8"),
        (LayerType.NORM, "bf16"),
        (LayerType.HEAD, "bf16"),
        (LayerType.OTHER, "bf16"),
    ],
)
def test_mixed_is_fp16_int8_and_bf16_by_kind(kind: LayerType, expected: str) -> None:
    assert chosen(mixed(), layer(type=kind)) == expected


def test_the_first_rule_that_matches_decides() -> None:
    policy = Policy("own", (Rule("int8", names="*.fc1"), Rule("int4-g128"), Rule("fp8")))
    assert chosen(policy, layer("a.fc1")) == "int8"
    assert chosen(policy, layer("a.fc2")) == "int4-g128"


def test_rules_of_the_user_come_first() -> None:
    policy = uniform("int4-g128").with_rules(Rule("int8", names="*.q_proj"))
    assert chosen(policy, layer("layers.0.self_attn.q_proj")) == "int8"
    assert chosen(policy, layer("layers.0.self_attn.k_proj")) == "int4-g128"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(Rule("fp8", types=frozenset({LayerType.FEED_FORWARD})), True, id="type"),
        pytest.param(Rule("fp8", types=frozenset({LayerType.ATTENTION})), False, id="other type"),
        pytest.param(Rule("fp8", names="layers.*.fc1"), True, id="pattern"),
        pytest.param(Rule("fp8", names="layers.*.fc2"), False, id="other pattern"),
        pytest.param(Rule("fp8", names=r"re:\.\d+\.mlp"), True, id="regular expression"),
        pytest.param(Rule("fp8", names=r"re:^mlp"), False, id="other regular expression"),
        pytest.param(Rule("fp8", min_parameters=65_536), True, id="just large enough"),
        pytest.param(Rule("fp8", min_parameters=65_537), False, id="too small"),
        pytest.param(Rule("fp8", max_parameters=65_536), True, id="just small enough"),
        pytest.param(Rule("fp8", max_parameters=65_535), False, id="too large"),
    ],
)
def test_a_rule_matches_by_type_name_and_size(rule: Rule, expected: bool) -> None:
    assert (chosen(Policy("own", (rule,)), layer()) == "fp8") is expected


@pytest.mark.parametrize(
    ("wanted", "of", "expected", "reason"),
    [
        pytest.param("int4-g128", layer(shape=(64, 192)), "int4-g64",
                     "K = 192 is no multiple of 128", id="smaller group"),
        pytest.param("int4-g128-asym", layer(shape=(64, 160)), "int4-g32-asym",
                     "K = 160 is no multiple of 128", id="smaller group, asymmetric"),
        pytest.param("int4-g64", layer(shape=(64, 200)), "int8",
                     "K = 200 is no multiple of 64", id="no group divides K"),
        pytest.param("int4-g32", layer(shape=(64, 96)), "int8",
                     "K = 96 is less than 128", id="short rows"),
        pytest.param("int4-g128", layer("conv1", (64, 64, 3, 3), "conv"), "int8",
                     "a convolution can only be int8 by row", id="convolution"),
        pytest.param("fp8", layer("wte", (300, 64), "embedding"), "int8",
                     "an embedding can only be int8 by row", id="embedding"),
        pytest.param("int8", layer(shape=(2, 100)), "bf16", "it has only 200 weights", id="tiny"),
        pytest.param("int8", layer("norm", (64, 64), "other"), "bf16",
                     "it has no weight matrix", id="no matrix"),
        pytest.param("fp8-block", layer(shape=(130, 70)), "fp8-block", "", id="blocks always fit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_falls_back_and_says_why(
    wanted: str, of: Layer, expected: str, reason: str
) -> None:
    choice = Policy("own", (Rule(wanted),)).choose(of)
    assert choice.scheme is not None
    assert (choice.scheme.name, choice.wanted, choice.reason) == (expected, wanted, reason)


def test_a_layer_that_was_named_does_not_fall_back_silently() -> None:
    policy = mixed().with_rules(Rule("int4-g128", names="layers.0.mlp.fc1"))
    with pytest.raises(PrecisionError) as caught:
        policy.choose(layer(shape=(64, 200)))
    assert caught.value.reason == "SchemeDoesNotFit"
    assert caught.value.message == (
        "The layer 'layers.0.mlp.fc1' cannot have the scheme 'int4-g128': "
        "K = 200 is no multiple of 128."
    )


@given(
    wanted=st.sampled_from([name for name, scheme in SCHEMES.items() if scheme.quantized]),
    rows=st.integers(1, 300),
    columns=st.integers(1, 600),
    kind=st.sampled_from(["linear", "conv", "embedding", "other"]),
)
def test_falling_back_ends_with_a_scheme_that_fits(
    wanted: str, rows: int, columns: int, kind: WeightKind
) -> None:
    policy = Policy("own", (Rule(wanted),))
    scheme = policy.choose(layer(shape=(rows, columns), kind=kind)).scheme
    assert scheme is not None
    again = Policy("again", (Rule(scheme.name),)).choose(layer(shape=(rows, columns), kind=kind))
    assert (again.scheme, again.reason) == (scheme, "")
    assert not scheme.group_size or columns % scheme.group_size == 0


def test_a_uniform_policy_keeps_embeddings_heads_and_routers() -> None:
    policy = uniform("int4-g128")
    assert chosen(policy, layer("model.embed_tokens", (300, 256), "embedding")) == KEEP
    assert chosen(policy, layer("lm_head", (300, 256))) == KEEP
    assert chosen(policy, layer("layers.0.block_sparse_moe.gate", (8, 256))) == KEEP
    assert chosen(policy, layer("layers.0.self_attn.q_proj")) == "int4-g128"
    assert chosen(uniform("int8", embeddings="int8"), layer("wte", (99, 64), "embedding")) == "int8"


@pytest.mark.parametrize(
    ("precision", "linear", "convolution"),
    [
        ("fp32", "fp32", "fp32"),
        ("fp16", "fp16", "fp16"),
        ("bf16", "bf16", "bf16"),
        ("int8", "int8-dynamic", "int8"),
        ("int4", "int4-g128", "int8"),
        ("fp8", "fp8-dynamic", "int8"),
        ("mixed", "int8", "int8"),
    ],
)
def test_every_precision_of_a_pipeline_has_a_policy(
    precision: str, linear: str, convolution: str
) -> None:
    policy = for_precision(precision)
    assert chosen(policy, layer()) == linear
    assert chosen(policy, layer("conv1", (64, 64, 3, 3), "conv")) == convolution


@pytest.mark.parametrize("unknown", ["auto", "int3"])
def test_a_precision_without_a_policy_is_refused(unknown: str) -> None:
    with pytest.raises(PrecisionError, match=f"no policy for the precision '{unknown}'"):
        for_precision(unknown)


def test_a_policy_is_named_by_a_scheme_or_mixed() -> None:
    assert policy_named("mixed") == mixed()
    assert policy_named("int8") == uniform("int8")
    with pytest.raises(PrecisionError, match="no quantization scheme 'int5'"):
        policy_named("int5")


def test_a_rule_with_an_unknown_scheme_cannot_be_made() -> None:
    with pytest.raises(PrecisionError, match="no quantization scheme 'int3'"):
        Rule("int3")


@dataclass(frozen=True)
class Measured:
    name: str
    milliseconds: float | None
    exact: bool = True


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([Measured("a", 5.0), Measured("b", 3.0)], "b", id="the fastest"),
        pytest.param([Measured("a", 5.0), Measured("b", 3.0, exact=False)], "a", id="within bound"),
        pytest.param([Measured("a", 11.0)], "reference", id="nothing is faster"),
        pytest.param([Measured("a", None)], "reference", id="not measured"),
        pytest.param([], "reference", id="no others"),
    ],
)
def test_auto_is_the_fastest_that_keeps_the_bound(others: list[Measured], expected: str) -> None:
    best = measured_best(
        Measured("reference", 10.0),
        others,
        keeps_bound=lambda m: m.exact,
        milliseconds=lambda m: m.milliseconds,
    )
    assert best.name == expected
