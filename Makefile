# make demo and make test do all that a fresh machine with Python 3.11 or newer needs.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
BENCH := runs/bench
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Without bytecode, each of the tests' many processes would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

# What the lock leaves out: torch's CUDA, and what only Windows, Emscripten and PyPy need.
NOT_LOCKED := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
    nvidia-nvshmem-cu13 triton httpx2-jsfetch cffi

# Those whose C library is of 2012 (glibc 2.17) or newer.
PLATFORMS := manylinux_2_17_x86_64.manylinux_2_17_aarch64

AUDIT := .venv-supply/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off --format json

# On all cores, eight at most; a worker that has nothing left to do takes tests from another.
PYTEST := pytest --numprocesses logical --maxprocesses 8 --dist worksteal

.PHONY: help demo quick test coverage faults fuzz mutants lint format bench firmware firmware-peers bench-seed docs notebook lock locked oldest audit dist wheel clean

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | sed 's/\$$\$$/$$/g' | expand -t 16

demo: .venv/installed  ## train three normalizations on the embedded digits and compare them
	rm -rf $(DEMO)
	for norm in bn gn ln; do \
	    $(BIN)/normlab train assignment --norm $$norm --dataset digits --recipe demo \
	        --out $(DEMO)/assignment-$$norm-0 || exit; \
	done
	$(BIN)/normlab report $(DEMO)/assignment-bn-0 $(DEMO)/assignment-gn-0 $(DEMO)/assignment-ln-0

quick: .venv/installed  ## run the tests that find most mistakes, in less than a minute
	$(BIN)/$(PYTEST) -m 'not slow' --hypothesis-profile quick

test: .venv/installed  ## run all tests
	$(BIN)/$(PYTEST)

coverage: .venv/installed  ## run all tests, or TESTS="-m 'not slow'", and list the lines and branches that none reaches
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST) $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage json --quiet -o - | $(BIN)/python -c 'import json, sys; \
	    print("lines {percent_statements_covered:.1f}%, branches {percent_branches_covered:.1f}%" \
	    .format(**json.load(sys.stdin)["totals"]))'

faults: .venv/installed  ## kill runs, damage their files, fill their disk: minutes
	$(BIN)/pytest tests/faults

fuzz: .venv/installed  ## look for input that breaks a reader: ten minutes for each of them
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet atheris
	$(BIN)/python tests/fuzz/run.py --out runs/fuzz.json

mutants: .venv/installed  ## break the code in small ways, and see whether the tests notice: half an hour
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet mutmut
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

lint: .venv/installed  ## check style, types, and which package imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed  ## put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-bench  ## measure speed and memory, into runs/bench; CIFAR-10 from $$NORMLAB_DATA
	for benchmark in footprint throughput against_machine scaling workers small_study; do \
	    $(BIN)/python benchmarks/$$benchmark.py --out $(BENCH)/$$benchmark.json || exit; \
	done

firmware: .venv/installed-bench  ## run C programs on emulated Cortex-M boards (RUN=FOLDER: that of a run; else nano, micro): needs qemu and gcc for Arm
ifdef RUN
	$(BIN)/python benchmarks/firmware.py $(RUN)
else
	$(BIN)/python benchmarks/firmware.py src/normlab/models/nano results/nano/runs/gn-0 results/nano/runs/ln-0 \
	    src/normlab/models/micro --norms in rms ln-channel ln-full frn lrn dyt proxy-gn proxy-ln evonorm-s0 evonorm-b0 \
	    --out $(BENCH)/firmware.json
	$(BIN)/python benchmarks/firmware.py src/normlab/models/nano --float --out $(BENCH)/firmware-float.json
endif

firmware-peers: .venv-peers/installed  ## the same for nano, beside what emx-onnx-cgen and bakenn make of it
	.venv-peers/bin/python benchmarks/firmware.py src/normlab/models/nano --peers --out $(BENCH)/firmware-peers.json

bench-seed: .venv-seed/installed  ## time the seed recipe in plain PyTorch, as a student writes it
	mkdir -p $(BENCH)
	.venv-seed/bin/python benchmarks/reference_seed.py --out $(BENCH)/reference-seed.json

docs: .venv/installed  ## build the site of the documentation into build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo build/site/index.html

notebook: .venv/installed  ## execute examples/assignment.ipynb on the digits, and keep its outputs
	$(BIN)/python tests/assignment_notebook.py

lock: .venv-supply/installed  ## write requirements.lock: what make test installs, with the hash of every file
	mkdir -p build && rm -f build/all-but-torch.lock
	printf '%s\n' $(NOT_LOCKED) | .venv-supply/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	    --extra dev --constraints constraints.txt --excludes - --generate-hashes --no-annotate --no-header \
	    --no-emit-package torch --output-file build/all-but-torch.lock pyproject.toml
	{ echo '# What make test installs, with the hash of every file. Written by make lock, installed by make locked.'; \
	  sed '/^# /d' build/all-but-torch.lock; \
	  echo '# On Linux the build for CPUs alone, which pip has to be told about: --extra-index-url https://download.pytorch.org/whl/cpu'; \
	  awk '/^torch==/ { printf $$0 } / torch-/ { printf " \\\n    --hash=sha256:" $$1 } END { print "" }' \
	      constraints.txt torch.sha256; } > requirements.lock

locked:  ## make .venv from requirements.lock, the hash of every file checked
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --only-binary :all: --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	touch .venv/installed

oldest: .venv-oldest/installed  ## run the tests with the oldest versions that pyproject.toml allows
	.venv-oldest/bin/$(PYTEST) -o filterwarnings=default

# First of a version that is known for them: of a service that knows of none, all would be clean.
audit: .venv-supply/installed  ## ask PyPI for known vulnerabilities of the constraints' versions
	mkdir -p build && rm -f build/audit*
	echo jinja2==2.4.1 > build/audit-vulnerable.txt
	-$(AUDIT) --requirement build/audit-vulnerable.txt --output build/audit-vulnerable.json
	grep -q CVE- build/audit-vulnerable.json || { echo 'the service knows of no vulnerabilities: nothing was audited' >&2; exit 1; }
	$(AUDIT) --requirement constraints.txt --output build/audit.json || \
	    { sed 's/{"name"/\n&/g' build/audit.json | grep '"vulns": \[{'; exit 1; }
	test "$$(grep -o '"vulns"' build/audit.json | wc -l)" = "$$(grep -c '==' constraints.txt)" || \
	    { echo 'build/audit.json lacks packages of constraints.txt' >&2; exit 1; }

dist: .venv-supply/installed  ## build the source distribution and the wheel, and check what PyPI would show of them
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt .venv-supply/bin/python -m build
	.venv-supply/bin/twine check --strict dist/*

wheel: dist .venv/installed  ## the wheel with the compiled passes, for machines without a compiler: needs GCC for x86-64 and for Arm
	rm -rf build/wheel && mkdir -p build/wheel
	.venv-supply/bin/wheel unpack --dest build/wheel dist/normlab-*-py3-none-any.whl
	$(BIN)/python -c 'import sys; from normlab.layers.kernels import prebuilt; prebuilt.build_all(sys.argv[1])' \
	    build/wheel/normlab-*/normlab/layers/kernels
	.venv-supply/bin/wheel pack --dest-dir build/wheel build/wheel/normlab-*/
	.venv-supply/bin/wheel tags --remove --platform-tag $(PLATFORMS) build/wheel/*.whl
	mv build/wheel/*.whl dist
	.venv-supply/bin/twine check --strict dist/*

clean:  ## remove what the other targets made
	rm -rf .venv .venv-seed .venv-peers .venv-supply .venv-oldest $(DEMO) $(BENCH) build dist .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants .coverage*
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

.venv-supply/installed: constraints.txt
	$(PYTHON) -m venv .venv-supply
	.venv-supply/bin/pip install --quiet --constraint constraints.txt build pip-audit twine uv wheel
	touch $@

# Only the direct dependencies are at their oldest: what they need in turn is as new as they allow.
.venv-oldest/installed: pyproject.toml .venv-supply/installed
	.venv-supply/bin/uv venv --quiet --clear --python 3.11 .venv-oldest
	.venv-supply/bin/uv pip install --quiet --python .venv-oldest --resolution lowest-direct --editable '.[dev]'
	touch $@

.venv-peers/installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt .venv-peers/bin/pip install --quiet --editable . --requirement $<
	touch $@

# torchvision needs a torch other than the constraints'. On Linux both bring several GB of CUDA libraries.
.venv-seed/installed: benchmarks/requirements-seed.txt
	$(PYTHON) -m venv .venv-seed
	.venv-seed/bin/pip install --quiet --requirement benchmarks/requirements-seed.txt
	touch $@
