# make setup · check · test · test-all · train · bench · proto · docs

PYTHON ?= python3.11
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
STAMP  := $(VENV)/.installed
PROTOS  = $(wildcard proto/wire/v1/*.proto)
PROTOC  = $(PY) -m grpc_tools.protoc -I proto

# Further pip arguments for the torch install alone, such as an index that serves CPU builds.
TORCH_ARGS ?=

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: setup check test test-all train bench proto proto-fresh docs clean

setup: $(STAMP)

# torch goes first and alone, so that no later requirement can choose its build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	$(PY) -m wire.codec.kernels
	touch $@

check: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	$(MAKE) --no-print-directory proto-fresh

# What starts processes of several roles runs by itself: its time limits are the point.
test: setup
	pytest -n 2 -m "not cluster and not slow and not gpu and not root"
	pytest --durations=12 -m "cluster and not slow and not gpu and not root"

test-all: setup
	pytest

train: setup
	sparsync train

bench: setup
	$(PY) benchmarks/scaling.py

proto: setup
	$(PROTOC) --python_out=. --grpc_python_out=. --pyi_out=. $(PROTOS)

proto-fresh: setup
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --grpc_python_out="$$fresh" --pyi_out="$$fresh" $(PROTOS) && \
	diff -r -x __init__.py -x __pycache__ -x py.typed "$$fresh/wire/v1" wire/v1 \
	  || { echo "wire/v1 is not what proto/ generates: run 'make proto' and commit the result" >&2; exit 1; }

docs: setup
	sparsync config show --markdown > docs/configuration.md
	$(PY) -m sparsync.cli.reference metrics > docs/metrics.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
