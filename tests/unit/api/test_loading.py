"""Reading files: YAML as kubectl reads it, limits, warnings, several documents."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from deepseek_api._yaml_tree import read_documents
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import ConfigurationError, ErrorCode, InvalidPipelineError, Problem
from deepseek_api.loading import MAX_FILE_BYTES, load_pipeline_file, load_pipelines

SEED = Path(__file__).parents[3] / "examples" / "nlp-vision-joint.yaml"


def pipeline(model: str = "", *, name: str = "demo", spec: str = "") -> str:
    return (
        "apiVersion: deepseek.ai/v1alpha1\n"
        "kind: ModelPipeline\n"
        f"metadata:\n  name: {name}\n"
        "spec:\n"
        "  models:\n"
        "  - name: bert-base\n" + textwrap.indent(model, "    ") + textwrap.indent(spec, "  ")
    )


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidPipelineError) as caught:
        load_pipelines(text, "file.yaml")
    return caught.value.problems


def test_the_file_of_the_first_page_loads_without_a_warning() -> None:
    [(loaded, warnings)] = load_pipeline_file(SEED, catalog=builtin_catalog())
    assert [(model.name, model.type, model.replicas) for model in loaded.spec.models] == [
        ("bert-base", "NLP", 2),
        ("resnet50", "CV", 1),
    ]
    assert warnings == ()


def test_a_duplicate_name_is_reported_beside_other_problems() -> None:
    text = pipeline("replicas: ten\n", spec="- name: bert-base\n- name: bert-base\n  color: red\n")
    assert [(p.path, p.line, p.reason) for p in problems_of(text)] == [
        ("spec.models[0].replicas", 8, "InvalidValue"),
        ("spec.models[1]", 9, "InvalidValue"),
        ("spec.models[2]", 10, "InvalidValue"),
        ("spec.models[2].color", 11, "UnknownField"),
    ]
    assert problems_of(text)[2].message == "models[2] has the name 'bert-base' of item 0."


def test_a_duplicate_rule_is_reported_beside_other_problems() -> None:
    rules = "scheduler:\n  priorityRules:\n" + "  - {modelType: NLP, weight: 2}\n" * 2
    assert [(p.path, p.line) for p in problems_of(pipeline(spec=rules))] == [
        ("spec.scheduler.priorityRules[0].weight", 10),
        ("spec.scheduler.priorityRules[1]", 11),
        ("spec.scheduler.priorityRules[1].weight", 11),
    ]


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("placement: PerModel", "'placement' belongs under spec."),
        ("scheduler: {}", "'scheduler' belongs under spec."),
        ("metadata: {}", "'metadata' belongs at the top of the document."),
        ("minReplicas: 2", "'minReplicas' belongs under autoscaling."),
        ("placements: PerModel", "Write one of: name, type,"),
    ],
    ids=["placement", "scheduler", "metadata", "minReplicas", "no such field anywhere"],
)
def test_a_field_in_the_wrong_place_is_told_where_it_belongs(model: str, hint: str) -> None:
    [problem] = problems_of(pipeline(f"{model}\n"))
    assert problem.reason == "UnknownField"
    assert str(problem.hint).startswith(hint)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("yes", True), ("Y", True), ("on", True), ("TRUE", True),
        ("no", False), ("n", False), ("Off", False),
        ("tRue", "tRue"), ("'yes'", "yes"), ('"12"', "12"),
        ("~", None), ("null", None), ("Null", None), ("", None), ("nil", "nil"),
        ("12", 12), ("+12", 12), ("-12", -12), ("1_000", 1000),
        ("010", 8), ("0o10", 8), ("0x1F", 31), ("0b101", 5), ("08", 8), ("-0x10", -16),
        ("1.5", 1.5), (".5", 0.5), ("2.0", 2), ("1e3", 1000), ("1e-2", 0.01), ("5.", 5),
        ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("1.2.3", "1.2.3"), ("12Gi", "12Gi"),
        ("1e999", "1e999"), ("-", [None]), ("!!str 12", "12"), ("!!int 0x10", 16),
        ("!!float 3", 3), ("!!null ''", None), ("! 12", "12"),
    ],
)  # fmt: skip
def test_a_word_means_what_kubectl_reads(written: str, read: object) -> None:
    [document] = read_documents(f"value: {written}\nother: 1\n" if written != "-" else "value:\n- ")
    value = document.value["value"]
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("written", "key"), [("yes", "true"), ("1", "1"), ("0x10", "16"), ("'a b'", "a b")]
)
def test_a_key_is_always_text(written: str, key: str) -> None:
    [document] = read_documents(f"{written}: 1\n")
    assert list(document.value) == [key]


def test_a_repeated_key_warns_and_the_last_one_counts() -> None:
    [(loaded, warnings)] = load_pipelines(pipeline("replicas: 2\nreplicas: 3\n"), "file.yaml")
    assert loaded.spec.models[0].replicas == 3
    [warning] = warnings
    assert (warning.path, warning.line) == ("spec.models[0].replicas", 9)
    assert warning.reason == "DuplicateKey"


def test_a_field_of_an_overwritten_key_is_not_mistaken_for_the_value() -> None:
    text = pipeline() + "spec: {}\n"
    [problem] = problems_of(text)
    assert (problem.path, problem.line) == ("spec.models", 7)


def test_anchors_aliases_and_merges_are_understood() -> None:
    text = pipeline(
        "resources: &r\n  requests: {cpu: 1}\n",
        spec="- name: minilm\n  resources: *r\n- name: resnet50\n  batching: {<<: *b, "
        "maxBatchSize: 8}\n",
    ).replace("  - name: bert-base\n", "  - name: bert-base\n    batching: &b {maxQueueSize: 64}\n")
    [(loaded, _)] = load_pipelines(text)
    first, second, third = loaded.spec.models
    assert second.resources == first.resources
    assert third.batching is not None
    assert (third.batching.max_batch_size, third.batching.max_queue_size) == (8, 64)


def test_empty_fields_count_as_absent() -> None:
    [(loaded, _)] = load_pipelines(pipeline("replicas:\nprecision: null\nsource: ~\n"))
    model = loaded.spec.models[0]
    assert (model.replicas, model.precision, model.source) == (None, "auto", None)


def test_empty_values_inside_an_overlay_are_kept() -> None:
    [(loaded, _)] = load_pipelines(pipeline("podTemplate: {spec: {nodeName: null}}\n"))
    assert loaded.spec.models[0].pod_template == {"spec": {"nodeName": None}}


def test_several_documents_are_several_pipelines_and_empty_ones_are_left_out() -> None:
    text = f"---\n# nothing\n---\n{pipeline(name='a')}---\n{pipeline(name='b')}---\n"
    assert [item.pipeline.metadata.name for item in load_pipelines(text)] == ["a", "b"]


def test_the_problems_of_all_documents_are_reported_in_the_order_of_the_file() -> None:
    text = pipeline("replicas: -1\nprecision: int7\n", name="a") + "---\n" + pipeline("gpus: x\n")
    problems = problems_of(text)
    assert [(problem.path, problem.line) for problem in problems] == [
        ("spec.models[0].replicas", 8),
        ("spec.models[0].precision", 9),
        ("spec.models[0].gpus", 18),
    ]


def test_several_broken_rules_are_all_reported() -> None:
    text = pipeline("device: cpu\ngpus: 1\n", spec="placement: Shared\n")
    assert {problem.path for problem in problems_of(text)} == {
        "spec.placement",
        "spec.models[0].gpus",
    }


def test_the_error_names_file_line_and_column_for_each_problem() -> None:
    with pytest.raises(InvalidPipelineError) as caught:
        load_pipelines(pipeline("replicas: two\n"), "my.yaml")
    assert str(caught.value) == (
        "my.yaml:8:15: spec.models[0].replicas: replicas must be a whole number, not the text "
        "'two'. Write a whole number without quotes."
    )


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + pipeline("replicas: 2\n").replace("\n", "\r\n").encode())
    [(loaded, _)] = load_pipeline_file(file)
    assert loaded.spec.models[0].replicas == 2


@pytest.mark.parametrize(
    ("spec", "reason", "path"),
    [
        (
            "scheduler:\n  priorityRules:\n  - {modelType: nlp, weight: 0.5}\n",
            "RuleWithoutModel",
            "spec.scheduler.priorityRules[0].modelType",
        ),
        (
            "scheduler:\n  policy: static\n  priorityRules:\n  - {modelType: NLP, weight: 0.5}\n",
            "StaticPolicy",
            "spec.scheduler.priorityRules",
        ),
    ],
    ids=["rule-without-model", "static-policy"],
)
def test_what_is_allowed_and_has_no_effect_is_a_warning(spec: str, reason: str, path: str) -> None:
    [(_, warnings)] = load_pipelines(pipeline(spec=spec))
    assert [(warning.reason, warning.path) for warning in warnings] == [(reason, path)]


def test_a_rule_that_an_untyped_model_may_match_is_no_warning() -> None:
    text = pipeline(
        spec="- name: own\n  source: {uri: file:///own}\nscheduler:\n  priorityRules:\n"
        "  - {modelType: Audio, weight: 0.5}\n"
    )
    [(_, warnings)] = load_pipelines(text)
    assert warnings == ()


def test_without_a_catalog_names_are_not_checked() -> None:
    assert load_pipelines(pipeline().replace("bert-base", "somebody-elses"))


def test_a_model_with_a_source_needs_no_catalog_entry() -> None:
    text = pipeline("source: {uri: file:///model}\n").replace("bert-base", "own")
    assert load_pipelines(text, catalog=builtin_catalog())


def test_a_text_over_the_limit_is_refused_before_it_is_read() -> None:
    [problem] = problems_of("#" * (MAX_FILE_BYTES + 1))
    assert problem.reason == "TooLarge"


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    file.write_bytes(b"\xff" * (MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidPipelineError, match="larger than 1024 KiB"):
        load_pipeline_file(file)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "&a [*a, *a]", "a: &a {b: *a}"],
    ids=["lists", "mappings", "dashes", "alias-of-itself", "mapping-of-itself"],
)
def test_hostile_structures_are_refused(text: str) -> None:
    [problem] = problems_of(text)
    assert problem.line == 1


@pytest.mark.timeout(20)
def test_a_file_full_of_values_is_refused() -> None:
    [problem] = problems_of("a: [" + "1," * 200_000 + "1]")
    assert problem.reason == "TooLarge"


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(InvalidPipelineError) as caught:
        load_pipeline_file(file)
    assert caught.value.problems[0].line == 2


def test_half_of_a_surrogate_pair_is_refused() -> None:
    [problem] = problems_of("a: \ud800")
    assert problem.reason == "InvalidYaml"


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml does not exist") as caught:
        load_pipeline_file(tmp_path / "none.yaml")
    assert caught.value.code is ErrorCode.NOT_FOUND


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        load_pipeline_file(tmp_path)
    assert caught.value.reason == "FileUnreadable"
