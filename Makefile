# The only tools a machine needs beforehand are Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

# On Debian it is installed where that is allowed; elsewhere by hand, before. The pictures are drawn with Inter.
CHROMIUM = command -v chromium >/dev/null || \
	(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-inter) >/dev/null || \
	(echo "This needs Chromium: install it first (on Debian: apt-get install chromium fonts-inter)." && exit 1)

.PHONY: demo test browser lint types docs bench soak

demo: $(VENV)/installed
	$(BIN)/oneseek demo

test: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadgroup -m "not soak and not browser"

# The page in a real Chromium.
browser: $(VENV)/installed $(VENV)/npm/installed
	$(CHROMIUM)
	$(VENV)/npm/node_modules/.bin/prettier --print-width 120 --log-level warn --check src/oneseek/server/pages/assets
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/browser

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/python docs/generate.py
	$(CHROMIUM)
	$(BIN)/python docs/pictures.py

bench: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --group bench
	$(BIN)/python bench/run.py $(BENCH)

soak: $(VENV)/installed
	$(BIN)/pytest -m soak --timeout 3600

$(VENV)/npm/installed: Makefile | $(VENV)/installed
	npm install --silent --no-audit --no-fund --prefix $(VENV)/npm axe-core@4.14.1 prettier@3.10.1
	touch $@

# Made once; made again only when what is to be installed has changed.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OneSeek needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group dev
	touch $@
