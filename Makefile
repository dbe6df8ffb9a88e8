# Every target sets up what it needs: a virtual environment with the locked dependencies, and a compiler.
# `make help` lists the targets.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Most tests wait, for timers and for packets: half as many again at a time as there are CPUs.
WORKERS := $(shell echo $$(( $$(nproc) > 5 ? 8 : ($$(nproc) * 3 + 1) / 2 )))
# Neighbours share what they have compiled, so each worker begins with a run of them, and takes from others at the end.
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

# The ziglang wheel carries a whole clang (90 MB): left out where the machine has one that will do.
WITHOUT_ZIGLANG := awk '/^[^ ]/ { keep = !/^ziglang==/ } keep'
FIND_CLANG      := $(BIN)/python -c 'from compiler.clang import find_clang; find_clang()' 2>/dev/null

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

demo: root $(READY) ## a bridge with a guard in front, between four network namespaces (root)
	@$(BIN)/python -m tests.demo

test: root tools $(READY) ## all tests (root)
	@$(PYTEST) $(ARGS)

test-unit: $(READY) ## the tests that need no root
	@$(PYTEST) -m "not kernel" $(ARGS)

test-kernel: root tools $(READY) ## the tests that load programs and move packets (root)
	@$(PYTEST) -m kernel $(ARGS)

bench: root $(READY) ## how fast chains are, beside the bare redirect and the kernel (root; QUICK=1: in about a minute)
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(ARGS)

bench-compare: $(READY) ## two results of the bench, row by row: make bench-compare A=before.json B=after.json
	@$(BIN)/python -m bench compare $(A) $(B)

bench-docs: $(READY) ## tables and plots of docs/performance.md from the last full run of the bench
	@$(BIN)/python -m bench docs

lint: $(READY) ## style of the Python (ruff) and of the C (clang-format)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@git ls-files '*.h' '*.c' | xargs $(BIN)/clang-format --dry-run --Werror

types: $(READY) ## mypy --strict
	@$(BIN)/mypy

format: $(READY) ## rewrites Python and C in the project's style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@git ls-files '*.h' '*.c' | xargs $(BIN)/clang-format -i

wheel: $(READY) ## dist/: source distribution and wheel
	@$(BIN)/python -m build --no-isolation --outdir dist

lock: ## requirements.lock anew: the newest versions that pyproject.toml allows
	@$(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip --quiet install uv
	@build/uv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade --quiet \
		--group dev --extra clang --output-file requirements.lock pyproject.toml

clean: ## removes everything that was made here, the environment included
	rm -rf $(VENV) build dist .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# The environment, made again in place when a pinned version or the project's own description changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "bpfchain needs Python 3.11 or later, and $(PYTHON) is older or missing: make PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV) >/dev/null || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments with pip: its venv or ensurepip module is missing" \
			"(Debian and Ubuntu split it off as python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV) ..." >&2
	@$(WITHOUT_ZIGLANG) requirements.lock > $(VENV)/system-clang.lock
	@$(PIP) install --require-hashes --requirement $(VENV)/system-clang.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(FIND_CLANG) || $(PIP) install --require-hashes --requirement requirements.lock
	@touch $@

root:
	@[ "$$(id -u)" = 0 ] || { \
		echo "this needs root: it makes network namespaces and loads BPF programs (without: make test-unit)" >&2; exit 1; }

# What tests run beside their own programs: as COMMAND:DEBIAN-PACKAGE. What is missing is installed.
TEST_TOOLS := bird:bird2 iperf3:iperf3 ping:iputils-ping traceroute:traceroute tracepath:iputils-tracepath curl:curl

tools:
	@PATH="$$PATH:/usr/sbin"; missing=; for tool in $(TEST_TOOLS); do \
		command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool#*:}"; done; [ -z "$$missing" ] || { \
		command -v apt-get >/dev/null || { echo "the tests need more programs; install:$$missing" >&2; exit 1; }; \
		apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive \
			apt-get install --quiet=2 --no-install-recommends $$missing; } >&2

.PHONY: demo test test-unit test-kernel bench bench-compare bench-docs lint types format wheel lock clean help root tools
