# Every target makes the virtual environment that it needs. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
TEST_JOBS ?= 2

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
# The wheels of CUDA 13 need driver 580 or newer.
CUDA ?= $(shell driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1); \
	if [ "$${driver%%.*}" -ge 580 ] 2>/dev/null; then echo cuda13; else echo cuda12; fi)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench docs soak gpu-check clean

help: ## say what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-report ## generate data, find regions in them and in a real map, write figures and a report
	$(BIN)/gpuroi demo $(DEMO) --overwrite
	$(BIN)/gpuroi roi $(DEMO)/bold.nii.gz --conditions $(DEMO)/labels.tsv --contrast face-house \
		--mask $(DEMO)/mask.nii.gz --min-region-size 800 --out $(DEMO)/roi --overwrite
	$(BIN)/gpuroi regions "$$($(BIN)/python -c 'from gpuroi.demo_data import motor_map_path; print(motor_map_path())')" \
		--threshold 97% --min-size-mm3 1500 --out $(DEMO)/motor --overwrite
	@printf '%s\n' '' 'Regions that tell faces from houses, in generated data:' \
		'  report    $(DEMO)/roi/report.html (open it in a browser)' \
		'  pictures  $(DEMO)/roi/figures/' \
		'  tables    $(DEMO)/roi/atlas.tsv, $(DEMO)/roi/signals.tsv' \
		'  images    $(DEMO)/roi/atlas.nii.gz, $(DEMO)/roi/maps/' \
		'Regions of the motor t-map that comes with nilearn:' \
		'  report    $(DEMO)/motor/report.html' \
		'  pictures  $(DEMO)/motor/figures/' \
		'  table     $(DEMO)/motor/atlas.tsv' \
		'More to try: $(DEMO)/README.md'

test: $(VENV)/.installed-test ## run the tests and the examples in the docstrings; PYTEST_ARGS='-k label'
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-lint ## check style, types, layers and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile.*

bench: $(VENV)/.installed-bench ## measure gpuroi and its peers; BENCH_ARGS='-k label'
	$(BIN)/python -m pytest benchmarks --benchmark-only $(BENCH_ARGS)

docs: $(VENV)/.installed-docs ## build the site with its gallery, warnings are errors: docs/_build/html/index.html
	rm -rf docs/reference
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

soak: $(VENV)/.installed-test ## 60 000 hostile inputs, 300 faults of a screening; writes the records; ten minutes
	$(BIN)/python -m tests.fuzz --inputs 60000 --out benchmarks/results/soak-$$(date +%F).json
	$(BIN)/python -m tests.soak --out benchmarks/results/soak-faults-$$(date +%F).json

gpu-check: ## check and measure on a CUDA device; with PYTHON if it has CuPy (no network needed), else in .venv-cuda
	@if $(PYTHON) -c 'import sys, importlib.util as u; sys.exit(u.find_spec("cupy") is None)'; then \
		set -- $(PYTHON); \
	else \
		$(MAKE) VENV=.venv-cuda .venv-cuda/.installed-$(CUDA),test && set -- .venv-cuda/bin/python; \
	fi && "$$@" -m benchmarks.gpu_check $(GPU_CHECK_ARGS)

clean: ## remove the environments, the demo and all caches
	rm -rf .venv .venv-cuda $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	rm -rf .numba build dist *.egg-info docs/_build docs/examples docs/reference docs/gallery/demo docs/gallery/.ruff_cache
	find gpuroi tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("gpuroi needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.made
	$(PIP) install --quiet --editable '.[$*]'
	@touch $@
