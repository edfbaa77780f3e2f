from __future__ import annotations

import re

from deepseek_operator.names import (
    MAX_LENGTH,
    deployment_name,
    headless_name,
    prepare_policy_name,
    worker_name,
)
from hypothesis import given
from hypothesis import strategies as st

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
PIPELINES = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
MODELS = st.one_of(
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,20}(-headless){1,2}", fullmatch=True),
)


def service_names(pipeline: str, model: str) -> list[str]:
    return [deployment_name(pipeline, model), headless_name(pipeline, model)]


def test_short_names_are_those_that_people_expect() -> None:
    assert deployment_name("nlp-vision-joint", "bert-base") == "nlp-vision-joint-bert-base"
    assert headless_name("nlp-vision-joint", "bert-base") == "nlp-vision-joint-bert-base-headless"
    assert worker_name("nlp-vision-joint") == "nlp-vision-joint-worker"


def test_a_shortened_name_never_changes() -> None:
    # Clients dial it: another way of shortening would take the address away from them.
    assert deployment_name("p" * 63, "m" * 40) == "p" * 54 + "-4e90d092"
    assert headless_name("p" * 40, "m" * 20) == "p" * 40 + "-mmmm-ad8c87c1-headless"


@given(pipeline=PIPELINES, model=MODELS)
def test_every_name_is_a_dns_label_of_63_characters_at_most(pipeline: str, model: str) -> None:
    names = [*service_names(pipeline, model), worker_name(pipeline), prepare_policy_name(pipeline)]
    for name in names:
        assert len(name) <= MAX_LENGTH
        assert DNS_LABEL.fullmatch(name)


@given(pipeline=PIPELINES, models=st.sets(MODELS, min_size=2, max_size=16))
def test_the_services_of_one_pipeline_have_different_names(pipeline: str, models: set[str]) -> None:
    names = [name for model in models for name in service_names(pipeline, model)]
    assert len(set(names)) == len(names)


@given(pipelines=st.sets(PIPELINES, min_size=2, max_size=8))
def test_pipelines_do_not_share_the_objects_of_a_pipeline(pipelines: set[str]) -> None:
    names = [make(name) for name in pipelines for make in (worker_name, prepare_policy_name)]
    assert len(set(names)) == len(names)


def test_a_model_named_like_a_headless_service_gets_another_name() -> None:
    assert deployment_name("shop", "bert-headless") != headless_name("shop", "bert")


def test_shortened_names_of_different_splits_differ() -> None:
    first, second = "a" * 50 + "-b", "a" * 50
    assert deployment_name(first, "c" * 20) != deployment_name(second, "b-" + "c" * 20)
