# make demo and make test do all that a fresh machine with Python 3.11 or newer needs.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
BENCH := runs/bench
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test faults fuzz lint format bench bench-seed clean

demo: .venv/installed  ## train three normalizations on the embedded digits and compare them
	rm -rf $(DEMO)
	for norm in bn gn ln; do \
	    $(BIN)/normlab train assignment --norm $$norm --dataset digits --recipe demo \
	        --out $(DEMO)/assignment-$$norm-0 || exit; \
	done
	$(BIN)/normlab report $(DEMO)/assignment-bn-0 $(DEMO)/assignment-gn-0 $(DEMO)/assignment-ln-0

test: .venv/installed  ## run the tests
	$(BIN)/pytest

faults: .venv/installed  ## kill runs, damage their files, fill their disk: minutes
	$(BIN)/pytest tests/faults

fuzz: .venv/installed  ## look for input that breaks a reader: ten minutes for each of them
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet atheris
	$(BIN)/python tests/fuzz/run.py

lint: .venv/installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench  ## measure speed and memory, into runs/bench; CIFAR-10 from $$NORMLAB_DATA
	for benchmark in footprint throughput against_machine scaling workers; do \
	    $(BIN)/python benchmarks/$$benchmark.py --out $(BENCH)/$$benchmark.json || exit; \
	done

bench-seed: .venv-seed/installed  ## time the seed recipe in plain PyTorch, as a student writes it
	.venv-seed/bin/python benchmarks/reference_seed.py

clean:  ## remove what the other targets made
	rm -rf .venv .venv-seed $(DEMO) $(BENCH) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf src/normlab.egg-info

# The constraints hold for the build's own environment too, where only the variable reaches.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'normlab needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/installed-bench: .venv/installed
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

# torchvision needs a torch other than the constraints'. On Linux both bring several GB of CUDA libraries.
.venv-seed/installed: benchmarks/requirements-seed.txt
	$(PYTHON) -m venv .venv-seed
	.venv-seed/bin/pip install --quiet --requirement benchmarks/requirements-seed.txt
	touch $@
