# Everything here works on a fresh machine with python3, pip, gcc, g++, make and cmake.
PYTHON ?= python3
CONFIG ?= config.yaml
VENV := .venv
BIN := $(VENV)/bin
STATE := $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/edge-agent

# llama.cpp built for a processor with AMX crashes in some virtual machines (docs/troubleshooting.md)
ifneq ($(shell grep -c -m1 amx_tile /proc/cpuinfo 2>/dev/null),0)
NO_AMX := -mno-amx-tile -mno-amx-int8 -mno-amx-bf16
export CMAKE_ARGS ?= -DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)'
endif

.PHONY: serve cloud-standin test test-fast lint bench retrain config clean help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

serve: $(VENV)/device ## install what is missing, fetch the local model, run the daemon
	@$(BIN)/edge-agent pull --config $(CONFIG)
	@exec $(BIN)/edge-agent serve --config $(CONFIG)

cloud-standin: $(VENV)/device ## a second daemon that plays the cloud: the 1.5B model on 127.0.0.1:8643
	@$(BIN)/edge-agent pull qwen2.5-coder-1.5b
	@EDGE_AGENT_TOKEN=stand-in EDGE_AGENT_TCP_PORT=8643 EDGE_AGENT_CLOUD_ENABLED=false \
	EDGE_AGENT_LOCAL_MODEL=qwen2.5-coder-1.5b EDGE_AGENT_LOG_PATH=$(STATE)/cloud-standin.db \
	exec $(BIN)/edge-agent serve --config $(CONFIG) --socket $(STATE)/cloud-standin.sock

test: $(VENV)/dev ## all tests, the real models included
	$(BIN)/edge-agent pull qwen2.5-coder-0.5b
	$(BIN)/edge-agent pull qwen2.5-coder-1.5b
	$(BIN)/python -m pytest

test-fast: $(VENV)/dev ## the tests that need no real model
	$(BIN)/python -m pytest -m "not real"

lint: $(VENV)/dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev ## the figures of docs/performance.md
	$(BIN)/edge-agent pull qwen2.5-coder-0.5b
	$(BIN)/python -m benchmarks

retrain: $(VENV)/training ## label sets to a router: train, calibrate, export, publish to router_models/current
	$(BIN)/python tools/train_router.py --publish

config: $(VENV)/device ## write config.yaml from the defaults
	$(BIN)/python tools/write_config.py > config.yaml

clean: ## remove the virtual environment
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/device: pyproject.toml | $(VENV)/bin/python
	@echo "Installing edge-agent; building llama.cpp takes about eight minutes the first time."
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/training: pyproject.toml | $(VENV)/bin/python
	@echo "Installing edge-agent for training; building llama.cpp takes about eight minutes the first time."
	$(BIN)/python -m pip install -e '.[training]'
	@touch $@ $(VENV)/device

$(VENV)/dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing edge-agent for development; building llama.cpp takes about eight minutes the first time."
	$(BIN)/python -m pip install -e '.[dev,training,chat]'
	@touch $@ $(VENV)/device $(VENV)/training
