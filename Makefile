# make demo [SEED=0] [RUN=runs/tiny]   the whole chain on the built-in world
# make test [ARGS='-k name'] [JOBS=2]  the test suite, in so many processes
# make lint                            format, lint, types
# make system                          whole runs: processes, launchers, preemption
# make parity                          tests against PyTorch, which it installs
# make clean                           removes caches; keeps .venv and runs/

# Makes the environment; 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
RUN ?= runs/tiny
ARGS ?=
JOBS ?= 2

bin := $(VENV)/bin
pytest := $(bin)/python -m pytest -n $(JOBS) --dist worksteal
train := $(bin)/python -m beaver_jax.train
options := --config.seed=$(SEED) --config.run=$(RUN)

.PHONY: demo test lint system parity clean

demo: $(VENV)/.installed-dev
	$(train) --config=configs/ppo.py $(options)
	$(train) --config=configs/ppo_lag.py $(options)

test: $(VENV)/.installed-dev
	$(pytest) $(ARGS)

lint: $(VENV)/.installed-dev
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy beaver_jax benchmarks configs launch

system: $(VENV)/.installed-dev
	$(pytest) tests/system $(ARGS)

parity: $(VENV)/.installed-parity
	$(pytest) tests/parity $(ARGS)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find beaver_jax configs launch tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(bin)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(bin)/pip
	$(bin)/python -m pip install -e '.[dev]'
	touch $@

$(VENV)/.installed-parity: $(VENV)/.installed-dev
	$(bin)/python -m pip install -e '.[dev,parity]'
	touch $@
