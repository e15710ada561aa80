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

# The tests of OpenAI's client come with its source.
OPENAI := .venv/clients/openai-3.54.0

# The official tests of JSON Schema come with the source of the validator that we use.
SUITE := .venv/json-schema-test-suite

# Environments of clients: the newest, those that want openai 2, and tests of others.
CLIENTS := clients clients-2 clients-langchain clients-schemathesis

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

## Clients of OpenAI (its own tests, too), Anthropic, LangChain and LlamaIndex, Claude Code, Codex and
## Schemathesis, against `zonda serve`: four minutes.
clients: $(CLIENTS:%=.venv/%/installed)
	$(BIN)/python -m tests.clients .venv/clients/bin/python .venv/clients-2/bin/python \
		.venv/clients-langchain/bin/python
	$(BIN)/python -m tests.clients.claude_code .venv/clients/node_modules/.bin/claude
	$(BIN)/python -m tests.clients.codex .venv/clients/node_modules/.bin/codex
	$(BIN)/python -m tests.clients.openai_python .venv/clients/bin/python $(OPENAI)
	$(BIN)/python -m tests.clients.openapi .venv/clients-schemathesis/bin/python

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

.venv/clients/installed: .venv/installed-dev
	@$(PYTHON) -m venv .venv/clients
	@.venv/clients/bin/python -m pip --disable-pip-version-check install --quiet \
		'openai[aiohttp]==3.54.0' anthropic==2.14.0 \
		langchain-openai==1.7.4 langchain-mcp-adapters==0.3.2 \
		pytest==9.2.0 pytest-asyncio==1.5.0 rich==15.0.0
	@$(PIP) download --quiet --no-deps --no-binary openai --dest .venv/clients openai==3.54.0
	@tar -xzf $(OPENAI).tar.gz -C .venv/clients
	@npm install --silent --no-audit --no-fund --no-save --prefix .venv/clients \
		@anthropic-ai/claude-code@2.1.332 @openai/codex@0.171.0
	@touch $@

# Of the many packages that these bring, what is imported is compiled then.
.venv/clients-2/installed: .venv/installed-dev
	@$(PYTHON) -m venv --without-pip .venv/clients-2
	@$(PIP) --python .venv/clients-2/bin/python install --quiet --no-compile \
		openai==2.54.0 llama-index-llms-openai-like==0.8.1 llama-index-tools-mcp==0.6.0
	@touch $@

.venv/clients-langchain/installed: .venv/installed-dev
	@$(PYTHON) -m venv --without-pip .venv/clients-langchain
	@$(PIP) --python .venv/clients-langchain/bin/python install --quiet --no-compile \
		langchain-openai==1.7.4 langchain-tests==1.1.9
	@touch $@

.venv/clients-schemathesis/installed: .venv/installed-dev
	@$(PYTHON) -m venv --without-pip .venv/clients-schemathesis
	@$(PIP) --python .venv/clients-schemathesis/bin/python install --quiet --no-compile \
		schemathesis==4.32.5
	@touch $@

$(SUITE)/tests: .venv/installed-dev
	@$(PIP) download --quiet --no-deps --no-binary jsonschema --dest $(SUITE) jsonschema==4.26.0
	@tar -xzf $(SUITE)/jsonschema-4.26.0.tar.gz -C $(SUITE) --strip-components=2 \
		jsonschema-4.26.0/json/tests jsonschema-4.26.0/json/remotes
	@touch $@
