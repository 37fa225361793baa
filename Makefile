# Two commands do everything: `make demo` and `make test`. Each makes its own .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo demo-fast test stress bench results lint clean

demo: $(READY)
	$(BIN)/asr-pathways demo --out demo $(ARGS)

demo-fast: $(READY)
	$(BIN)/asr-pathways demo --out demo-fast --fast $(ARGS)

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# Kills runs until 500 were killed: nothing may be lost, and nothing may differ from uninterrupted runs. Nine minutes.
stress: $(READY)
	$(BIN)/python -m tests.stress --json results/stress.json $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror src/asr_pathways/runtime/kernels/*.h src/asr_pathways/runtime/kernels/*.cpp benchmarks/*.cpp

bench: $(READY)
	$(BIN)/python -m benchmarks
	$(BIN)/asr-pathways bench --preset tiny,small,base --sparsity 0.5,0.7,0.8 --json bench-1.json
	$(BIN)/asr-pathways bench --preset tiny,small,base --chunk 160,640 --json bench-2.json
	$(BIN)/asr-pathways bench --preset tiny,small,base --threads 2 --json bench-3.json
	$(BIN)/python -m benchmarks.growth --json results/growth.json
	$(BIN)/python -m benchmarks.performance bench-1.json bench-2.json bench-3.json

# The reports of the papers' tables and of others (whose tables go into the first), from the ledgers alone; without
# --report the same command runs what is missing.
results: $(READY)
	$(BIN)/asr-pathways experiment recipes/blocks.yaml --out results/blocks --report
	$(BIN)/asr-pathways experiment recipes/whisper.yaml --out results/whisper --report
	$(BIN)/asr-pathways experiment recipes/long.yaml --out results/long --report
	$(BIN)/asr-pathways experiment recipes/paper.yaml --out results/paper --report

# torch first and alone, by its exact version: pip must not pick another one, with gigabytes of CUDA, for a dependency.
$(READY): pyproject.toml constraints.txt setup.py $(wildcard src/asr_pathways/runtime/kernels/*.cpp src/asr_pathways/runtime/kernels/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "cannot make a virtual environment: on Debian or Ubuntu install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (about 1.5 GB, some minutes) ..."
	@$(PIP) install --constraint constraints.txt torch
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo demo-fast build
