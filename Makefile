# Everything a developer needs; `make help` lists it. Needs Python 3.11 or 3.12, make and git.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(if $(shell $(p) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,12))' >/dev/null 2>&1 && echo ok),$(p))))
BIN := $(VENV)/bin
RUN := $(BIN)/python
SOURCES := client crds deploy engine kernels operator protos worker tests benchmarks examples scripts
# On a machine with a GPU its own Python, which has torch and Triton for it, is used as it is.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(RUN),python3)
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"

##@ Use
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/installed ## Create the environment in .venv from the hashed lock

demo: setup ## Prepare two real models, serve them, send a text pair and a picture, stop again
	@$(RUN) examples/demo.py

serve: setup ## Prepare (once) and serve examples/quickstart.yaml until interrupted
	@$(BIN)/deepseek serve -f examples/quickstart.yaml

##@ Cluster
cluster: setup ## Start a Kubernetes cluster: kind where Docker answers, else a real one-node cluster
	@$(RUN) -m deploy.cluster up $(ARGS)

cluster-down: setup ## Remove everything that 'make cluster' made
	@$(RUN) -m deploy.cluster down

images: setup ## Build the operator's and the CPU worker's images (NAMES=... for others)
	@$(RUN) -m deploy.images build $(NAMES)

push: images ## Send the images to a registry: make push REGISTRY=registry.example/team
	@$(RUN) -m deploy.images push $(NAMES)

##@ Develop
test: setup ## All tests that need no root and no cluster
	@$(RUN) -m pytest -n 2 --dist loadfile --ignore tests/e2e $(ARGS)

test-triton36: setup ## The kernels' tests under the oldest Triton and NumPy that GPU hosts use
	@VENV=$(VENV) bash scripts/triton36.sh $(ARGS)

e2e: setup ## All tests that need a cluster: starts one, builds images, tests, stops it again
	@VENV=$(VENV) bash scripts/e2e.sh $(ARGS)

e2e-scale: setup ## Operator with 500 and 1,000 pipelines; about an hour on a machine that does nothing else
	@$(RUN) -m benchmarks.operator_scale $(ARGS)

e2e-chaos: setup ## 30 random kills on a cluster as 'make e2e' starts it; SEED=... repeats a course
	@VENV=$(VENV) ONLY=tests/e2e/test_chaos.py DEEPSEEK_CHAOS_KILLS=$(or $(KILLS),30) DEEPSEEK_CHAOS_SEED=$(or $(SEED),0) \
		DEEPSEEK_CHAOS_RESULTS=$(or $(RESULTS),benchmarks/results) bash scripts/e2e.sh $(ARGS)
	@$(RUN) -m benchmarks.report

check: setup ## Formatting, lint, types, import contracts, generated files, house rules
	@$(RUN) scripts/check.py

format: setup ## Format and fix what can be fixed
	@$(BIN)/ruff format $(wildcard $(SOURCES)) && $(BIN)/ruff check --fix $(wildcard $(SOURCES))

bench: setup ## Side-by-side CPU benchmarks; writes benchmarks/results and docs/performance.md
	@$(RUN) -m benchmarks.run

bench-accuracy: setup ## What quantizing costs, on models trained here: make bench-accuracy PARTS=cnn,minilm
	@$(RUN) -m benchmarks.accuracy $(if $(PARTS),--parts $(PARTS)) $(ARGS)

bench-gpu: ## Kernels beside their peers on this machine's GPU: make bench-gpu PARTS=k1,k4
	@$(GPU_PYTHON) -m benchmarks.gpu $(if $(PARTS),--parts $(PARTS)) $(ARGS)

bench-gpu-wheels: setup ## Fetch the peers' wheels (60 MiB at most), to carry to a machine without network
	@$(RUN) -m benchmarks.gpu.carrying

test-gpu: ## The correctness tables of all kernels on this machine's GPU
	@$(GPU_PYTHON) -m pytest -c tests/gpu/pytest.ini --confcutdir tests/gpu tests/gpu $(ARGS)

##@ Generate
crds: setup ## The CRD and its reference page from the types
	@$(RUN) -m deepseek_api.crdgen && $(RUN) -m deepseek_api.docgen
	@cp crds/deepseek.ai_modelpipelines.yaml charts/deepseek-operator/files/modelpipelines.yaml

protos: setup ## The protocol stubs from the .proto files
	@$(RUN) -m deepseek_protos.generate

lock: setup ## The hashed requirement files from pyproject.toml
	@$(LOCK) --extra cpu -o requirements/cpu.txt
	@$(BIN)/uv pip compile --group operator-image --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" -o requirements/operator.txt
	@$(LOCK) --extra generate -o requirements/generate.txt
	@$(LOCK) --extra cuda --extra generate --extra prepare --extra quickstart -o requirements/cuda.txt
	@$(LOCK) --extra dev -o requirements/dev.txt
	@echo 'uv' | $(BIN)/uv pip compile - --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" -o requirements/bootstrap.txt

clean: ## Remove the environment and what builds and tests leave behind
	@rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Prepared bundles stay in the user cache; 'deepseek cache clear' removes them."

$(VENV)/installed: requirements/dev.txt requirements/bootstrap.txt pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh

.PHONY: help setup demo serve cluster cluster-down images push test e2e e2e-scale e2e-chaos check format bench bench-accuracy bench-gpu bench-gpu-wheels test-gpu test-triton36 crds protos lock clean
