# Every command of this project. Each works from a fresh clone with Python (>= 3.10) and make alone.
PYTHON ?= python3
DEVICE ?= cpu
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo test bench lint format build clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## +/\t/' | expand -t 10

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,models]'
	touch $(STAMP)

demo: $(STAMP)  ## fit pose and cameras to pictures of real motion, write demo/
	$(BIN)/posegeom demo --out demo

test: $(STAMP)  ## every test, in parallel; then the Triton kernels once more, in their interpreter
	$(BIN)/python -m pytest -n auto --dist worksteal
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/test_contract.py tests/test_kernels.py tests/test_kernels_camera.py tests/test_kernels_joints.py tests/test_kernels_kinematics.py

bench: $(STAMP)  ## speed and memory on this CPU, or with DEVICE=cuda on the GPU; writes docs/benchmarks.md
	KINETO_LOG_LEVEL=5 $(BIN)/python -m benchmarks.run --device $(DEVICE)

lint: $(STAMP)  ## formatting, rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the files the way lint wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(STAMP)  ## wheel and sdist in dist/
	$(BIN)/python -m build

clean:  ## remove what the other commands made, but the environment
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
