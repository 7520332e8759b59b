# Every target sets itself up: .venv is built when it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test test-long quick browser test-browser lint docs docs-tools bench bench-gpu clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "natix_hf needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP) ## train, calibrate and test a classifier on generated street photos (minutes, no download)
	# accelerate gives a process one thread unless told otherwise
	$(BIN)/accelerate launch --cpu --num_machines 1 --num_processes 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $$(nproc) -m natix_hf.train recipes/demo.yaml $(ARGS)
	$(BIN)/python -m natix_hf.demo runs/demo

test: $(STAMP) ## run the tests, fast ones first
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long" $(ARGS)

test-long: $(STAMP) ## run the tests that train many times over: shared sweeps, searches, a pipeline killed in every step
	$(BIN)/python -m pytest -m long $(ARGS)

quick: $(STAMP) ## run the fast tests that need no model, no data set and no process of their own: under two minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not browser" \
		$(patsubst %,--ignore=tests/%,data training runs hub verbs modeling inference golden docs scenes test_startup.py) $(ARGS)

browser: $(STAMP) ## install what test-browser needs: playwright, and Debian's Chromium where there is none
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[browser]'
	@command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable \
		|| { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; }

test-browser: browser ## open the report in headless Chromium
	$(BIN)/python -m pytest -m browser tests/report $(ARGS)

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs-tools: $(STAMP) ## install what docs needs: mkdocs-material and mkdocstrings
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[docs]'

docs: docs-tools ## build the pages of docs/ as a web site in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(STAMP) ## the benchmarks of tests/bench but that of a GPU, one after the other (SPEED="--example FILE": options of speed.py)
	@failed=0; for script in $(filter-out %/gpu.py,$(wildcard tests/bench/*.py)); do \
		echo "== $$script"; \
		case $$script in */speed.py) options='$(SPEED)';; *) options=;; esac; \
		$(BIN)/python $$script $$options || failed=1; \
	done; exit $$failed

bench-gpu: $(STAMP) ## the figures of one GPU, in at most eight minutes (GPU="--compare OLD.json": options of gpu.py)
	$(BIN)/python tests/bench/gpu.py $(GPU)

clean: ## remove .venv and the runs of the demo
	rm -rf $(VENV) runs/demo
