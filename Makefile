# Two commands: `make demo` and `make test`. Both may be interrupted and run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint docs benchmarks clean

demo: $(STAMPS)/core  ## install the core, compare models on built-in real data, print the leaderboard and where the report lies
	@echo "== comparing models on scikit-learn's handwritten digits (1,797 pictures)"
	@if [ -f assay-results/demo/study.toml ]; then resume=--resume; fi; \
	$(BIN)/assay compare digits --models auto --steps 300 --seeds 3 --workers 2 --output assay-results/demo $$resume

test: $(STAMPS)/test  ## install what tests need; lint, types, layers, tests
	@echo "== lint"
	@$(BIN)/ruff check src tests benchmarks
	@$(BIN)/ruff format --check src tests benchmarks
	@echo "== types"
	@$(BIN)/pyright
	@echo "== layers"
	@$(BIN)/lint-imports
	@echo "== tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

docs: $(STAMPS)/test  ## build the site into site/
	@$(BIN)/python docs/generate.py
	@$(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(STAMPS)/core: pyproject.toml constraints.txt $(VENV)/bin/python
	@echo "== installing Assay's core (PyTorch's CPU build is the largest part)"
	@mkdir -p $(STAMPS)
	@$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(STAMPS)/test: $(STAMPS)/core
	@echo "== installing what the tests need"
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

clean:  ## remove the environment and the results
	rm -rf $(VENV) assay-results site
