# make demo [SEED=0] [RUN=runs/tiny]   the whole chain on the built-in world
# make test [ARGS='-k name'] [JOBS=2]  the test suite, in so many processes
# make lint                            format, lint, types
# make system [ARGS='-k name']         whole programs as processes, in minutes
# make soak [MINUTES=60]               a run under faults, beside one left alone
# make parity                          tests against PyTorch, which it installs
# make docs                            the documentation as a site, in build/site
# make bench [OUT=build/benchmarks]    training's benchmarks, beside PyTorch's
# make clean                           removes caches; keeps .venv and runs/

# Makes the environment; 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
RUN ?= runs/tiny
ARGS ?=
OUT ?= build/benchmarks
JOBS ?= 2
MINUTES ?= 60

bin := $(VENV)/bin
pytest := $(bin)/python -m pytest -n $(JOBS) --dist worksteal
train := $(bin)/python -m beaver_jax.train
options := --config.seed=$(SEED) --config.run=$(RUN)

.PHONY: demo test lint system soak parity docs bench clean

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

soak: $(VENV)/.installed-dev
	$(bin)/python -m tests.system.soak --minutes=$(MINUTES)

parity: $(VENV)/.installed-parity
	$(pytest) tests/parity $(ARGS)

# The variable leaves out a theme's notice about another program. Pages must load
# nothing from elsewhere: links may lead there, scripts, styles and pictures not.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict --clean
	! grep -rnE '<(script|link|img|iframe)[^>]* (src|href)="?(https?:)?//' \
	    --include='*.html' build/site

bench: $(VENV)/.installed-parity
	mkdir -p $(OUT)
	$(bin)/python -m benchmarks.iteration --json $(OUT)/iteration.json
	$(bin)/python -m benchmarks.decode --json $(OUT)/decode.json

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

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(bin)/python -m pip install -e '.[dev,docs]'
	touch $@
