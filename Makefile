# Two commands: `make lab` to learn, `make test` to check everything. Both build .venv
# from pyproject.toml and constraints.txt first; `make help` lists the others.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := mario,lab,test,site
# Notebooks show their static figures, and no reader's own IPython settings take part.
HEADLESS := DREAMER_LITE_STATIC=1 IPYTHONDIR=$(CURDIR)/build/ipython MPLBACKEND=agg

.PHONY: help lab test check style unit stored site export notebooks times bench \
        evaluate colab drill mutations readme clean

help:
	@echo "make lab        build .venv and open JupyterLab on notebook 01"
	@echo "make test       build .venv and run every check"
	@echo "make export     notebooks -> dreamer_lite/*.py"
	@echo "make notebooks  run all ten and store their outputs"
	@echo "make times      measure minutes and memory of each notebook (writes both)"
	@echo "make readme     regenerate the tables of both README files"
	@echo "make bench      measure training speed (data/bench/)"
	@echo "make evaluate   100 episodes of the agent that ships, also with sticky actions"
	@echo "make site       the series as a web site, in build/site/html"
	@echo "make mutations  break the code on purpose: each break must fail its test"
	@echo "make drill      kill a training run 20 times: it must come back each time"
	@echo "make colab      run notebooks 01 and 06 as on Colab, imitated"
	@echo "make clean      remove build/ and caches (not .venv, not runs/)"

.venv/ok: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Dreamer Lite needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

lab: .venv/ok
	$(BIN)/jupyter lab notebooks/01_symlog.ipynb

# Cheap checks first. `make -k test` goes on after a failure.
test: check style unit stored site

# One command fails, the others still run and say what they find.
check: .venv/ok
	@status=0; \
	for command in "export.py --check" "nb.py check" "times.py --check" "readme.py --check" "data_readme.py --check"; do \
	    echo "$$command"; $(BIN)/python tools/$$command || status=1; \
	done; exit $$status

style: .venv/ok
	@status=0; for command in "format --check" "check"; do \
	    echo "ruff $$command"; $(BIN)/ruff $$command . || status=1; \
	done; exit $$status

unit: .venv/ok
	$(BIN)/pytest tests

# One thread for each of the two workers: two kernels whose threads share the cores wait
# for each other at every small product, and a cell of seconds takes minutes.
stored: .venv/ok
	$(HEADLESS) OMP_NUM_THREADS=1 $(BIN)/pytest -q --nbval --nbval-current-env --nbval-cell-timeout 600 \
	    --nbval-sanitize-with tools/nbval.cfg -n 2 --dist loadfile notebooks

site: .venv/ok
	$(BIN)/python tools/site/build.py

export: .venv/ok
	$(BIN)/python tools/export.py

notebooks: .venv/ok
	$(BIN)/python tools/nb.py run

times: .venv/ok
	$(BIN)/python tools/times.py
	$(BIN)/python tools/data_readme.py
	$(BIN)/python tools/readme.py

readme: .venv/ok
	$(BIN)/python tools/data_readme.py
	$(BIN)/python tools/readme.py

bench: .venv/ok
	$(BIN)/python tools/bench.py

# The protocol without sticky actions comes last: its flag rate is the last one printed.
evaluate: .venv/ok
	$(BIN)/python -m dreamer_lite.mario evaluate --baselines --sticky 0.25 --out data/mario_evaluation_sticky.json
	$(BIN)/python -m dreamer_lite.mario evaluate --baselines --out data/mario_evaluation.json
	$(BIN)/python tools/data_readme.py
	$(BIN)/python tools/readme.py

mutations: .venv/ok
	$(BIN)/python tools/mutations.py

drill: .venv/ok
	DREAMER_LITE_KILLS=20 $(BIN)/pytest tests/test_resume.py

colab: .venv/ok
	$(BIN)/python tools/colab.py

clean:
	rm -rf build .pytest_cache .ruff_cache *.egg-info
	find dreamer_lite tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
