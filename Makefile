# The commands of the project. `.ci/run` calls these and nothing else.
# Every target starts from a clean clone with Python >= 3.10 and a C++ compiler: .venv is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CSRC := CMakeLists.txt $(wildcard src/dcn/kernels/cpu/csrc/*)

.PHONY: demo test test-slow check fmt bench bench-gpu screenshots clean

$(STAMP): pyproject.toml constraints.txt $(CSRC)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e ".[train,export,video,supervision,loggers,hub,sbd]"
	touch $@

demo: $(STAMP)
	$(BIN)/dcn demo --output runs/demo

# Two processes of one thread: half the time of one process, and no OpenMP threads that spin for a core they do not get.
test: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest tests/slow --override-ini "addopts=-ra --strict-markers --strict-config"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The competitors live in an environment of their own: torchvision needs another torch than the one pinned here.
bench: .venv-bench/.installed
	for suite in conv depthwise bfloat16 zero-offsets; do \
		.venv-bench/bin/python -m benchmarks.run --suite $$suite --memory --csv benchmarks/results/cpu.csv || exit 1; \
	done
	.venv-bench/bin/python -m benchmarks.run --suite conv --busy 1 --csv benchmarks/results/cpu.csv
	.venv-bench/bin/python -m benchmarks.roi --csv benchmarks/results/cpu.csv
	.venv-bench/bin/python -m benchmarks.table benchmarks/results/cpu.csv

# On a machine with a GPU, with the Python that has torch and Triton there: nothing is installed.
OUT ?= runs/bench-gpu
bench-gpu:
	PYTHONPATH=src $(PYTHON) -m benchmarks.gpu --output $(OUT)

.venv-bench/.installed: pyproject.toml $(CSRC)
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.2 numpy onnx==1.23.2 onnxruntime==1.31.1
	.venv-bench/bin/python -m pip install --quiet --no-deps -e .
	touch $@

# The pictures of README and docs; needs Chromium and its driver.
screenshots: $(STAMP)
	$(BIN)/python -m tests.browser.screenshots docs/images runs/demo

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist runs site $(VENV)
