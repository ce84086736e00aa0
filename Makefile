# Every target sets up what it needs in .venv; nothing else on the machine is changed.
# As root, and only where Debian's python3 comes without venv, that one package is installed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast vm-setup vmtest lint format types soak soak-real seeds bench bench-check bench-simulate bench-trace bench-peers install clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: $(VENV)/ready ## Make .venv with everything in it

$(VENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "memreap needs Python 3.11 or newer: none found" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) (once)" >&2
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
		&& apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
		|| { echo "cannot make a virtual environment: install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/ready ## SIGKILL alone beside memreap, on processes of its own (under a minute)
	@$(BIN)/memreap demo

test: $(VENV)/ready ## Every test, real kills included where the machine allows
	@$(BIN)/pytest

test-fast: $(VENV)/ready ## Only what kills nobody
	@$(BIN)/pytest -m 'not kernel and not vm'

VM_SUITES ?=

vm-setup: $(VENV)/ready ## Guests for the tests: QEMU and a kernel (root; Debian or Ubuntu)
	@$(BIN)/python -m vmtest setup $(VM_SUITES:%=--suite %)

vmtest: ## Everything in guests: three Debian releases and their kernels (root; half an hour)
	@$(MAKE) --no-print-directory vm-setup VM_SUITES="bookworm trixie sid"
	@MEMREAP_VM_SUITES="bookworm trixie sid" $(BIN)/pytest -m vm
	@for kernel in trixie sid; do echo "the small guest, with the kernel of $$kernel"; \
		MEMREAP_VM_KERNEL=$$kernel $(BIN)/pytest tests/test_vm_guard.py || exit 1; done

lint: $(VENV)/ready ## Format check and lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: $(VENV)/ready ## Format, and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: $(VENV)/ready ## Strict types
	@$(BIN)/mypy

soak: soak-real seeds ## Real faults for a guard, then a million simulated runs (hours)

soak-real: $(VENV)/ready ## Ten minutes of hogs, forks, hung victims and faults for a guard (root)
	@MEMREAP_SOAK_S=600 $(BIN)/pytest -s tests/test_guard_soak.py

SEEDS ?= 1000000
SEEDS_PYTHON ?= $(BIN)/python

seeds: $(VENV)/ready ## A million runs of the guard on a simulated machine (hours; SEEDS_PYTHON=pypy3)
	@PYTHONPATH=src $(SEEDS_PYTHON) -m memreap.simulate.guard_soak $(SEEDS)

bench: $(VENV)/ready ## Everything measured side by side, with ratios (root; some minutes)
	@$(BIN)/python -m bench --markdown docs/bench.md

bench-check: $(VENV)/ready ## The checker beside rumur and SPIN (a minute or three)
	@$(BIN)/python -m bench --only check --markdown docs/check-bench.md

bench-trace: $(VENV)/ready ## What tracing costs an exit, and how many it keeps up with (root; minutes)
	@$(BIN)/python -m bench --only trace --markdown docs/trace-bench.md

bench-simulate: $(VENV)/ready ## The simulator's event loop beside simpy (under a minute)
	@$(BIN)/python -m bench --only simulate --markdown docs/simulate-bench.md

bench-peers: $(VENV)/ready ## Beside its peers on guests that run out of memory (hours; goes on where it was)
	@$(BIN)/python -m bench.oom

PREFIX ?= /usr/local
SHARE = $(DESTDIR)$(PREFIX)/share
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd

install: ## Units, manual pages, example configuration (PREFIX, DESTDIR); starts nothing
	@install -Dm644 -t $(UNITS)/system systemd/memreap.service systemd/memreap.slice
	@install -Dm644 -t $(UNITS)/user systemd/user/memreap.service
	@install -Dm644 -t $(SHARE)/doc/memreap/examples systemd/examples/*.conf \
		src/memreap/config/memreap.toml
	@for s in 1 5 8; do install -Dm644 -t $(SHARE)/man/man$$s man/*.$$s; done
	@install -d $(DESTDIR)/etc/memreap
	@echo "installed units, manual pages and examples; the program itself comes by pip, see README.md"

clean: ## Remove what was made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info
