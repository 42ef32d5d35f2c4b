# `make demo` and `make test` need Python 3.10 or newer and this file: they set up everything else, once, in .venv.
# Variables: PYTHON=python3.12, ARGS="..." for the command a target runs, NB="nbs/01_policy.ipynb" for outputs, and TORCH_INDEX=
# (empty) to take PyTorch from pip's own index, CUDA included.
PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
NB ?= --all
PY := .venv/bin/python
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt
RUN := $(PY) tests/run_notebooks.py
READY := .venv/ready

.PHONY: help demo test figures bench train-reference lab outputs readme export clean dist
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

demo: $(READY)  ## the whole path on the bundled model, from analysis to a compressed model
	@.venv/bin/tmpq-dm demo $(ARGS)

test: $(READY)  ## every notebook, and what holds notebooks, modules and package together
	@$(PY) -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

figures: $(READY)  ## figures/ again, byte for byte, from the data in figures/data
	@$(RUN) --figures $(ARGS)

bench: $(READY)  ## measure speed and memory on this machine and keep the results
	@$(RUN) --flags slow --save nbs/experiments/bench.ipynb

train-reference: $(READY)  ## train the bundled model again (hours on a CPU)
	@$(RUN) --flags slow --save nbs/experiments/train_reference.ipynb

lab: $(READY)  ## JupyterLab on the notebooks
	@.venv/bin/jupyter lab nbs $(ARGS)

outputs: $(READY)  ## run notebooks (all, or NB=...) and keep their cleaned outputs
	@$(RUN) --save $(NB) $(ARGS)

readme: $(READY)  ## README.md from nbs/index.ipynb
	@$(PY) tests/readme.py

export: $(READY)  ## tmpq_dm/*.py from the notebooks
	@.venv/bin/nbdev-export

clean:  ## strip run-time metadata from the notebooks; remove what builds leave behind
	@if test -e $(READY); then .venv/bin/nbdev-clean; fi
	@rm -rf build dist *.egg-info .pytest_cache .hypothesis

dist: $(READY)  ## wheel and source archive in dist/
	@rm -rf build dist && $(PY) -m build --no-isolation

# A plain `pip install torch` may bring gigabytes of CUDA. PyTorch's own index of CPU builds is therefore asked first, for at most
# 8 seconds (in a thread, because a name look-up that hangs has no timeout); where it can't be reached, pip's own index has to do.
define REACHABLE
import os, sys, threading, urllib.request
def ask():
    try: urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=8); os._exit(0)
    except Exception: os._exit(1)
threading.Thread(target=ask, daemon=True).start(); threading.Event().wait(8); os._exit(1)
endef
export REACHABLE

$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "tmpq-dm needs Python 3.10 or newer, and $(PYTHON) is not that: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Setting up .venv (once; some minutes and about 2 GB)"
	@index=; if test -n "$(TORCH_INDEX)"; then \
		if $(PY) -c "$$REACHABLE" "$(TORCH_INDEX)"; then index="--extra-index-url $(TORCH_INDEX)"; \
		else echo "$(TORCH_INDEX) can't be reached: taking PyTorch from pip's own index (on Linux that may include CUDA)"; fi; fi; \
	$(PIP) setuptools torch $$index
	@$(PIP) --no-build-isolation -e ".[dev]"
	@touch $@
