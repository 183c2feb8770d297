# make quickstart   sweep dense, ASP and NxM over two offline demo tasks and compare them
# make test         the whole test command
# make lint         ruff, mypy and the layers of imports
# make audit        the tested versions against known vulnerabilities; needs the network
# make bench        every benchmark beside its peers; BENCH='epoch --rounds 5' selects (benchmarks/README.md)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
QUICKSTART := outputs/quickstart
BENCH ?=

.PHONY: help quickstart bench test test-slow lint audit format wheel clean

help:
	@sed -n 's/^# make/make/p' Makefile

# The tested versions, and the package itself as an editable install.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("nxm_sweep needs Python 3.11 or later, but $(PYTHON) is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[offline,dev]'
	@touch $@

quickstart: $(READY)
	$(RUN) -m nxm_sweep -m experiment=quickstart output_dir=$(QUICKSTART)
	$(RUN) -m nxm_sweep.report $(QUICKSTART)

test: $(READY)
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: $(READY)
	$(RUN) -m pytest -m slow

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

audit: $(READY)
	$(RUN) tests/audit.py

bench: $(READY)
	$(RUN) -m benchmarks $(BENCH)

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

wheel: $(READY)
	$(RUN) -m build --wheel

clean:
	rm -rf $(VENV) build dist $(QUICKSTART)
