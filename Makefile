# Everything here runs in a virtual environment of its own, made on first use; it takes Python 3.10 or newer and make.
# Another interpreter or place for the environment: make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
CREATED := $(VENV)/.created
HAVE_GEARMAND := command -v gearmand >/dev/null && command -v gearadmin >/dev/null
export PATH := $(PATH):/usr/sbin:/usr/local/sbin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint bench clean gearmand test-tools bench-tools

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
	    printf '  make %-6s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed-demo  ## See it work: real jobs through a real worker, pictures in .demo/
	@$(BIN)/python -m gearworker.demo

test: $(VENV)/.installed-test gearmand test-tools  ## Run all tests, against the real gearmand where they need it
	@if $(HAVE_GEARMAND); then only=; else only='not gearmand'; fi; \
	$(BIN)/python -m pytest --durations=15 --durations-min=1 $${only:+-m "$$only"} $(PYTEST_ARGS)

lint: $(VENV)/.installed-test,lint  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict gearworker

bench: $(VENV)/.installed-test gearmand bench-tools  ## Measure throughput beside a C worker, memory a job, two cores, start-up
	@$(HAVE_GEARMAND) || { echo 'make bench: it needs gearmand; install gearman-job-server' >&2; exit 1; }
	$(BIN)/python tests/benchmarks/drain.py
	$(BIN)/python tests/benchmarks/sleepers.py
	$(BIN)/python tests/benchmarks/submit.py
	$(BIN)/python tests/benchmarks/cores.py
	$(BIN)/python tests/benchmarks/startup.py

clean:  ## Remove the environment, caches and the demo's pictures
	rm -rf .venv .venv-* .demo build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installs Debian packages as root, asking nothing and starting no service: RUNLEVEL=1 keeps init scripts still; under
# systemd the units that start on installation are stopped and disabled at once.
define APT_INSTALL
apt_install() { \
    command -v apt-get >/dev/null || { echo "there is no apt-get here"; return 1; }; \
    if [ "$$(id -u)" = 0 ]; then as_root=; \
    elif sudo -n true 2>/dev/null; then as_root='sudo -n'; \
    else echo "neither root nor passwordless sudo"; return 1; fi; \
    $$as_root apt-get update -qq >/dev/null || true; \
    $$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -qq -y --no-install-recommends "$$@" >/dev/null || { echo "apt-get install failed"; return 1; }; \
    for unit in gearman-job-server prometheus; do case " $$* " in *" $$unit "*) \
        if [ -d /run/systemd/system ]; then $$as_root systemctl disable --now "$$unit" >&2 || true; fi;; \
    esac; done; \
}
endef

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "make: gearworker needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	        "name another one: make PYTHON=python3.13" >&2; exit 1; }
	@$(APT_INSTALL); \
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	    why=$$(apt_install "$$package") || { \
	        echo "make: $(PYTHON) can't make virtual environments ($$why); install the package $$package" >&2; exit 1; }; \
	fi; \
	$(PYTHON) -m venv $(VENV) && touch $@

$(VENV)/.installed-%: setup.cfg pyproject.toml $(CREATED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch '$@'

gearmand:
	@$(APT_INSTALL); \
	if ! { $(HAVE_GEARMAND); }; then \
	    why=$$(apt_install gearman-job-server gearman-tools) || { \
	        echo "make: gearmand is missing and can't be installed here ($$why):" \
	            "the tests marked gearmand are left out; to have them, install gearman-job-server gearman-tools" >&2; \
	        if [ -n "$$CI" ]; then echo 'make: under CI that is a failure' >&2; exit 1; fi; }; \
	fi

# What the tests of deploy/ and of foreign clients run beside gearmand; without one of them its tests are skipped.
test-tools:
	@$(APT_INSTALL); \
	missing=; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	command -v unshare >/dev/null || missing="$$missing util-linux"; \
	ls /usr/lib/*/libseccomp.so.2 /lib/*/libseccomp.so.2 >/dev/null 2>&1 || missing="$$missing libseccomp2"; \
	perl -MGearman::Client -e 1 2>/dev/null || missing="$$missing libgearman-client-perl"; \
	if [ -n "$$missing" ]; then why=$$(apt_install $$missing) || { \
	    echo "make: not installed here ($$why):$$missing; their tests are skipped" >&2; \
	    if [ -n "$$CI" ]; then echo 'make: under CI that is a failure' >&2; exit 1; fi; }; \
	fi

bench-tools:
	@$(APT_INSTALL); \
	if ! echo '#include <libgearman/gearman.h>' | cc -E -x c - >/dev/null 2>&1; then \
	    why=$$(apt_install gcc libc6-dev libgearman-dev) || { \
	        echo "make: the C worker can't be built here ($$why); install gcc libc6-dev libgearman-dev" >&2; exit 1; }; \
	fi
