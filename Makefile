# Two commands on a fresh machine with Python 3.11, g++ and make: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUIET := --quiet --constraint .ci/constraints.txt

# Real MCP peers of the tests: a host, tool servers, the official tests, and node for them.
MCP := @modelcontextprotocol
PEERS := node@22 $(MCP)/inspector@2.12.0 $(MCP)/server-everything@2026.8.31 \
	$(MCP)/server-filesystem@2026.8.31 $(MCP)/server-memory@2026.8.31 \
	$(MCP)/server-sequential-thinking@2026.8.31 $(MCP)/conformance@0.2.0-alpha.12

# A server that does not start with the SDK of today, for tests; apart, so that nothing finds it.
CRASHING := .venv/sqlite

# The official tests of JSON Schema come with the source of the validator that we use.
SUITE := .venv/json-schema-test-suite

KERNELS := $(wildcard runtime/kernels/cpu/*.cpp runtime/kernels/cpu/*.h runtime/kernels/cpu/build*.py)

.PHONY: demo test check clients conformance fuzz test-arm test-gpu clean

## Show the default model calling tools of a real MCP server.
demo: .venv/installed
	@$(BIN)/zonda demo

## Lint, types, import contracts and the whole suite.
test: .venv/installed-dev $(SUITE)/tests
	$(BIN)/python -m tests.check --all

## What should pass before each commit: two and a half minutes.
check: .venv/installed-dev $(SUITE)/tests
	$(BIN)/python -m tests.check

## The official conformance suite of MCP against our servers and client: about three minutes.
conformance: .venv/installed-dev
	$(BIN)/python -m tests.conformance --client "python -m tests.conformance.client"

## OpenAI's and Anthropic's clients, Claude Code, Schemathesis, against `zonda serve`: two minutes.
clients: .venv/installed-dev .venv/clients/bin/python .venv/schemathesis/bin/schemathesis
	$(BIN)/python -m tests.clients .venv/clients/bin/python
	$(BIN)/python -m tests.clients.claude_code .venv/clients/node_modules/.bin/claude
	$(BIN)/python -m tests.clients.openapi .venv/schemathesis/bin/python

## Hostile bodies, random turns in every wire format, and a million damaged model files: about
## twenty minutes.
fuzz: .venv/installed-dev
	$(BIN)/python -m tests.fuzz.bodies --executions 100000
	$(BIN)/python -m tests.fuzz.turns --executions 10000 --every-split 300
	$(BIN)/python -m tests.fuzz gguf --executions 1000000

## The kernels of ARM under an emulator (g++-aarch64-linux-gnu, qemu-user): about four minutes.
test-arm: .venv/installed-dev
	$(BIN)/python -m tests.arm

## Equality and speed on this machine's CUDA device, with the torch (2.11 or later) of PYTHON.
test-gpu:
	$(PYTHON) -c "import torch; assert torch.cuda.is_available(), 'torch finds no CUDA device'"
	$(PYTHON) -m pytest -m gpu tests/gpu

clean:
	rm -rf .venv node_modules build dist *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml .ci/constraints.txt $(KERNELS)
	@echo "Installing Zonda into .venv, which compiles its CPU kernels (once, two minutes) …"
	@$(PIP) install $(QUIET) --editable .
	@touch $@

# torch first and alone: its CPU build is named exactly, so that nothing pulls in a GPU build.
.venv/installed-dev: .venv/installed
	@echo "Installing what tests need …"
	@$(PIP) install $(QUIET) --upgrade pip
	@$(PIP) install --quiet torch==2.13.0
	@$(PIP) install $(QUIET) --group dev
	@npm install --silent --no-audit --no-fund --no-save --prefix .venv/node $(PEERS)
	@$(PIP) install --quiet --no-deps --upgrade --target $(CRASHING) mcp-server-sqlite==2025.4.25
	@touch $@

.venv/clients/bin/python: .venv/installed-dev
	@$(PYTHON) -m venv .venv/clients
	@.venv/clients/bin/python -m pip --disable-pip-version-check install --quiet \
		openai==3.54.0 anthropic==2.14.0
	@npm install --silent --no-audit --no-fund --no-save --prefix .venv/clients \
		@anthropic-ai/claude-code@2.1.332

.venv/schemathesis/bin/schemathesis: .venv/installed-dev
	@$(PYTHON) -m venv .venv/schemathesis
	@.venv/schemathesis/bin/python -m pip --disable-pip-version-check install --quiet \
		schemathesis==4.32.5

$(SUITE)/tests: .venv/installed-dev
	@$(PIP) download --quiet --no-deps --no-binary jsonschema --dest $(SUITE) jsonschema==4.26.0
	@tar -xzf $(SUITE)/jsonschema-4.26.0.tar.gz -C $(SUITE) --strip-components=2 \
		jsonschema-4.26.0/json/tests
	@touch $@
