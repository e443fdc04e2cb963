# `make lab` to learn, `make test` to check everything. Both build .venv from
# pyproject.toml and constraints.txt first; `make help` lists the other commands.

PYTHON ?= python3
BIN := .venv/bin
PIP = "$(BIN)/python" -m pip install --disable-pip-version-check -c constraints.txt
# On Linux PyPI's torch brings gigabytes of CUDA libraries. TORCH=cpu leaves them out.
ifeq ($(TORCH),cpu)
  ifeq ($(shell uname -s),Linux)
    PIP += --extra-index-url https://download.pytorch.org/whl/cpu
  endif
endif
# Notebooks show their static figures, and the reader's own IPython settings stay out.
HEADLESS := DREAMER_LITE_STATIC=1 IPYTHONDIR="$(CURDIR)/build/ipython" MPLBACKEND=agg
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 600 --nbval-sanitize-with tools/nbval.cfg
# JupyterLab refuses to run as root unless it is told that this is meant.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: help lab test check style unit stored site export notebooks times tables \
        bench evaluate colab drill mutations clean

help:
	@echo "make lab        build .venv and open JupyterLab on notebook 01"
	@echo "make test       build .venv and run every check (half an hour)"
	@echo "                on Linux without an NVIDIA GPU: make lab TORCH=cpu"
	@echo "make export     notebooks -> dreamer_lite/*.py"
	@echo "make notebooks  run the notebooks and store their outputs"
	@echo "make times      measure minutes and memory of each notebook (writes both)"
	@echo "make tables     write the tables of data/README.md from the stored results"
	@echo "make bench      measure training speed (writes data/bench/)"
	@echo "make evaluate   100 episodes of the shipped agent, then 100 with sticky actions"
	@echo "make site       build the web site in build/site/html"
	@echo "make mutations  break the code on purpose: each break must fail its test"
	@echo "make drill      kill a training run 20 times: it must come back each time"
	@echo "make colab      run notebooks 01 and 06 as on Colab"
	@echo "make clean      remove build/ and caches (not .venv, not runs/)"

.venv/lab: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Dreamer Lite needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	@echo "Step 1 of 2: PyTorch. 0.8 GB on disk; on Linux several GB of CUDA libraries more, unless TORCH=cpu is given."
	$(PIP) torch
	@echo "Step 2 of 2: Gymnasium, JupyterLab, the emulator and what they need, some 120 packages. 0.7 GB on disk."
	$(PIP) -e ".[mario,lab]"
	@touch $@

.venv/test: .venv/lab
	@echo "What the checks need: pytest, nbval, ruff, Sphinx. 0.2 GB on disk."
	$(PIP) -e ".[mario,lab,test,site]"
	@touch $@

# Jupytext's extension stays off: it would write a second file beside a reader's notebook.
lab: .venv/lab
	@$(if $(AS_ROOT),echo "You are root: JupyterLab starts with --allow-root.",:)
	"$(BIN)/python" -m jupyterlab $(AS_ROOT) --ServerApp.jpserver_extensions=jupyterlab_jupytext=0 notebooks/01_symlog.ipynb

# Cheap checks first. `make -k test` continues after a failure.
test: check style unit stored site

# If one command fails, the others still run and report.
check: .venv/test
	@status=0; \
	for command in "export.py --check" "nb.py check" "times.py --check" "tables.py --check"; do \
	    echo "$$command"; "$(BIN)/python" tools/$$command || status=1; \
	done; exit $$status

style: .venv/test
	@status=0; for command in "format --check" "check"; do \
	    echo "ruff $$command"; "$(BIN)/python" -m ruff $$command . || status=1; \
	done; exit $$status

unit: .venv/test
	"$(BIN)/python" -m pytest tests

# One thread for each of the two workers: two kernels that share the cores would wait for
# each other at every small product.
stored: .venv/test
	$(HEADLESS) OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q $(NBVAL) -n 2 --dist loadfile notebooks

site: .venv/test
	"$(BIN)/python" tools/site/build.py

export: .venv/test
	"$(BIN)/python" tools/export.py

notebooks: .venv/test
	"$(BIN)/python" tools/nb.py run

times: .venv/test
	"$(BIN)/python" tools/times.py
	"$(BIN)/python" tools/tables.py

tables: .venv/test
	"$(BIN)/python" tools/tables.py

bench: .venv/test
	"$(BIN)/python" tools/bench.py
	"$(BIN)/python" tools/tables.py

# The protocol without sticky actions comes last: its flag rate is the last one printed.
evaluate: .venv/test
	"$(BIN)/python" tools/evaluate.py data/mario_evaluation_sticky.json --sticky 0.25
	"$(BIN)/python" tools/evaluate.py data/mario_evaluation.json
	"$(BIN)/python" tools/tables.py

mutations: .venv/test
	"$(BIN)/python" tools/mutations.py

drill: .venv/test
	DREAMER_LITE_KILLS=20 "$(BIN)/python" -m pytest tests/test_resume.py

colab: .venv/test
	"$(BIN)/python" tools/colab.py

clean:
	rm -rf build .pytest_cache .ruff_cache *.egg-info
	find dreamer_lite notebooks tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
