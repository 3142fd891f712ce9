# Everything runs in .venv, which every target makes itself; quick when nothing has changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest -q --durations=10

.PHONY: demo test data-test avalanche-test ledger-test lint format ledger bench clean

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c "import uv" 2>/dev/null || $(BIN)/python -m pip install --quiet "uv>=0.5"
	$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt --editable ".[test,dev]"
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/clsuite grid experiments/quickstart.yaml --out runs/quickstart
	@$(BIN)/clsuite report runs/quickstart

# The groups of tests that need no data beyond what is embedded; see the markers in pyproject.toml.
test: $(STAMP)
	$(PYTEST) -m unit -n 2
	$(PYTEST) -m kill -n 2
	$(PYTEST) -m processes
	$(PYTEST) -m install
	$(PYTEST) -m "avalanche and not data"
	$(PYTEST) -m ledger
	$(PYTEST) -m "browser and not data"

data-test: $(STAMP)
	$(PYTEST) -m data

ledger-test: $(STAMP)
	$(PYTEST) -m ledger

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .lint && ln -sfn ../clsuite .lint/clsuite && ln -sfn ../scenarios .lint/clsuite_scenarios && ln -sfn ../strategies .lint/clsuite_strategies
	cd .lint && ../$(BIN)/python -m mypy --config-file ../pyproject.toml -p clsuite -p clsuite_scenarios -p clsuite_strategies

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ledger: $(STAMP)
	$(BIN)/python docs/ledger.py

bench: $(STAMP)
	$(BIN)/python benchmarks/permuted_mnist.py
	$(BIN)/python benchmarks/grid_overhead.py

clean:
	rm -rf runs .lint build *.egg-info
