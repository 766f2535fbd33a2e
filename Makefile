# make book   executes the notebooks and builds the book into _build/html
# make test   lint, types and tests
# make bench  measures speed on this machine, for the page on it
# All set up .venv by themselves the first time.

PYTHON   ?= python3

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

BIN       := .venv/bin
STAMP     := .venv/.installed
TOOLS     := .venv/.tools
CLINICAL  := $(addprefix book/editions/clinical/,$(notdir $(wildcard notebooks/0*.ipynb)))
LIVE      := $(addprefix book/live/,by_hand.ipynb simulated.ipynb)
EXECUTED  := $(LIVE) $(CLINICAL)
GENERATED := $(addprefix book/generated/,studies.md datasets.md speed.md cli.md)

# What a result depends on besides its notebook: the package and the recorded runs.
SOURCES := $(shell find ecgnb -name '*.py' -o -name '*.toml') \
           $(shell find results -type f -not -name '.*' 2>/dev/null)

# The environment's own kernel and settings, and none of the user's; no progress bars in a log.
export JUPYTER_PREFER_ENV_PATH = 1
export JUPYTER_CONFIG_DIR = $(CURDIR)/.venv/etc/jupyter
export IPYTHONDIR = $(CURDIR)/.venv/ipython
export PYDEVD_DISABLE_FILE_VALIDATION = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export TQDM_DISABLE = 1
# One thread a process: with more, processes on shared cores wait for one another, and matrices in
# notebooks and small networks slow down many times over.
export OMP_NUM_THREADS = 1
unexport MPLBACKEND PYTHONPATH
# pip compiles nothing below: most of what it installs is never imported, and the rest is compiled
# when it is, and kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help book test lint address colab bench clean

help:
	@echo "make book    execute the notebooks and build the book: _build/html/index.html"
	@echo "make test    ruff, mypy and the tests"
	@echo "make lint    ruff and mypy only"
	@echo "make colab   rehearse the notebooks as they run in Google Colab"
	@echo "make address write the address of this repository into notebooks and book"
	@echo "make bench   measure speed on two cores: a quarter of an hour, with nothing else running"
	@echo "make clean   remove what was built; keeps .venv and the cache of trained runs"
	@echo "PYTHON=python3.12 make ... chooses the interpreter (3.11 or newer)"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "This project needs Python 3.11 or newer, and '$(PYTHON)' is not." \
	       "Name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up .venv (once; some minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --no-compile -c constraints.txt -e '.[book,imagenet]'
	@$(BIN)/python -c 'import matplotlib.pyplot' 2>/dev/null  # its font cache: now, not in a notebook
	@mkdir -p .venv/etc/ipython  # a kernel on this machine alone need not warn that it is not encrypted
	@echo '{"IPKernelApp": {"log_level": "ERROR"}}' > .venv/etc/ipython/ipython_kernel_config.json
	@touch $@

# Besides, what the tests and workflow/ need, which the book does not.
$(TOOLS): $(STAMP)
	@echo "adding the tools for tests and clusters to .venv"
	@$(BIN)/pip install -qq --no-compile -c constraints.txt -e '.[book,imagenet,onnx,test,workflow]'
	@touch $@

lint: $(TOOLS)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy --no-error-summary ecgnb benchmarks book/pages.py

# One test at a time to each process: the long ones come first, and a batch of them would stay in one.
test: lint
	@$(BIN)/pytest -n auto --maxschedchunk 1

colab: $(STAMP)
	@$(BIN)/python benchmarks/colab.py

address: $(STAMP)
	@$(BIN)/python book/address.py

bench: $(STAMP)
	@$(BIN)/python benchmarks/bench.py

# A notebook that fails leaves its half-executed copy in _build/notebooks, never in the book. It runs
# where only what it writes lies: files beside the pages, for their links.
define execute
@echo "executing $(<F)"
@mkdir -p $(@D) _build/notebooks
@$(BIN)/papermill $< _build/notebooks/$(@F) $(1) -k python3 --cwd $(@D) \
  --no-progress-bar --log-level WARNING
@mv _build/notebooks/$(@F) $@
endef
$(CLINICAL): book/editions/clinical/%.ipynb: notebooks/%.ipynb $(SOURCES) $(STAMP)
	$(call execute,-p study clinical)
$(LIVE): book/live/%.ipynb: notebooks/%.ipynb $(SOURCES) $(STAMP)
	$(call execute)
MAKEFLAGS += -j2  # reading recorded runs, and training, take a core each

book/generated/datasets.md book/generated/studies.md: book/generated/%.md: book/pages.py $(SOURCES) $(STAMP)
	@mkdir -p $(@D)
	@$(BIN)/python book/pages.py $* $(@D)
	@touch $@

# What every command says of itself, for the page on the package.
book/generated/cli.md: $(SOURCES) $(STAMP)
	@mkdir -p $(@D)
	@$(BIN)/typer ecgnb.cli utils docs --name ecgnb | sed -n '/^## /,$$p' > $@.tmp
	@mv $@.tmp $@

# speed.md and precision.md.
book/generated/speed.md: $(wildcard benchmarks/results/*.json) benchmarks/tables.py $(STAMP)
	@mkdir -p $(@D)
	@$(BIN)/python benchmarks/bench.py --page $(@D)

# Built from nothing each time: a partial build would not repeat the warnings of the one before.
HTML  := _build/html/index.html
PAGES := $(wildcard book/*.md book/*.bib book/_static/*) _config.yml _toc.yml

# Of the theme's icons, a font of 156 kB and 85 kB of rules, those that the pages show; fonttools comes
# with matplotlib.
ICONS  := _build/html/_static/vendor/fontawesome/webfonts/fa-solid-900
COMMA  := ,
GLYPHS := f002,f019,f03a,f03b,f042,f053,f054,f062,f065,f077,f078,f0c9,f104,f105,f107,f121,f15b,f15c,f185,f186,f1c1

$(HTML): $(EXECUTED) $(GENERATED) $(PAGES)
	@rm -rf _build/html _build/.doctrees
	@$(BIN)/jupyter-book build book --path-output . --config _config.yml --toc "$(CURDIR)/_toc.yml" \
	  -W -n --keep-going -q > /dev/null
	@perl -pi -e 's/\.fa-[^{}]*\{content:"\\(?!($(subst $(COMMA),|,$(GLYPHS)))")[0-9a-f]+"\}//g' \
	  _build/html/_static/styles/pydata-sphinx-theme.css
	@$(BIN)/pyftsubset $(ICONS).ttf --unicodes=$(GLYPHS) --flavor=woff --output-file=$(ICONS).woff2

book: $(HTML)
	@echo "the book: $(HTML)"

clean:
	rm -rf _build book/editions book/live book/generated .mypy_cache .pytest_cache .ruff_cache
