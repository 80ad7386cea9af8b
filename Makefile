# The first Python of these that is 3.12 or newer.
PYTHON := $(shell for p in python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/muon_stress
DURATION ?= 1800

.PHONY: stress post test tests lint format types api test-oldest test-long gpu-test aot-test soak kill-stress kill-stages kill-post kill-rl kill-rephrasing clean

stress: $(VENV)/installed  ## Train the comparison and write its report
	JAX_PLATFORMS=cpu $(BIN)/python -m kanana_jax.main --experiment=muon_stress --workdir=$(WORKDIR)

post: $(VENV)/installed  ## Train through all stages of post-training and write the report
	JAX_PLATFORMS=cpu $(BIN)/python -m kanana_jax.main --experiment=kanana_post --workdir=runs/kanana_post

# Compiling is most of the time, and what is tested here does not depend on how well it is done.
QUICK := XLA_FLAGS=--xla_backend_optimization_level=0
# Files in the order of their names, whose last are light: those of fewest tests, which would come
# last else, take the longest, and one of two workers would wait for the other.
SPREAD := -n 3 --dist loadfile --no-loadscope-reorder

test: format  ## Lint and all tests but the long ones
	$(MAKE) -j2 types tests

# Beside `types`, which is one thread. What fails first is told first; the other one still ends.
tests: $(VENV)/installed
	$(QUICK) $(BIN)/python -m pytest $(SPREAD)

lint: format types

format: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/pyright

# They and what they test import nothing of constraints-oldest.txt (a test looks).
WITHOUT_JAX := architecture config data experiments rollouts synthesize

# What is made to be imported; the rest is behind commands.
API := $(addprefix kanana_jax.,optim model objectives generate data weights rollouts laws) pallas_kernels

api: $(VENV)/installed  ## The reference of these packages, from docstrings, in build/api
	JAX_PLATFORMS=cpu $(BIN)/python -W error -m pdoc --docformat=google -o build/api $(API)

test-oldest: .venv-oldest/installed  ## A case of each fast test of what uses jax, on the oldest supported one
	$(QUICK) .venv-oldest/bin/python -m pytest $(SPREAD) -m "not slow and not long" --first-cases \
		$(WITHOUT_JAX:%=--ignore=tests/%)

test-long: $(VENV)/installed  ## What takes over four seconds: real processes killed, meshes, longer cases of kernels
	$(QUICK) $(BIN)/python -m pytest $(SPREAD) -m long

gpu-test: $(VENV)/installed  ## The kernels' whole case tables; skips without a Hopper GPU
	$(BIN)/python -m pytest -m gpu tests/pallas_kernels

aot-test: .venv-aot/installed  ## Compile TPU kernels and small train steps for real topologies, print VMEM
	.venv-aot/bin/python -m pytest -m aot -rP tests/pallas_kernels tests/plan

soak: $(VENV)/installed  ## Kill, stop and damage tiny runs at random for DURATION seconds
	$(BIN)/python tests/faults/soak.py --seconds=$(DURATION)

kill-stress: $(VENV)/installed  ## Kill one run of muon_stress 20 times and compare it with an unbroken one
	$(BIN)/python tests/faults/kill_experiment.py --experiment=muon_stress --kills=20

kill-post: $(VENV)/installed  ## The same of a small pipeline of post-training, 10 times
	$(BIN)/python tests/faults/kill_experiment.py --experiment=tests/faults/post_training.py --kills=10

kill-rl: $(VENV)/installed  ## The same of reinforcement learning whose tries go on over rounds, 20 times
	$(BIN)/python tests/faults/kill_experiment.py --experiment=tests/faults/rewarded.py --kills=20

kill-rephrasing: $(VENV)/installed  ## The same of a job of rephrasing against our server, 20 times
	$(BIN)/python tests/generate/kill_rephrasing.py --kills=20

kill-stages: $(VENV)/installed  ## The same of a run in three stages, 10 times
	$(BIN)/python tests/faults/kill_experiment.py --experiment=tests/faults/three_stages.py --kills=10

$(VENV)/installed: requirements.txt pyproject.toml
ifeq ($(PYTHON),)
	$(error no Python 3.12 or newer found as python3.12, python3.13 or python3; install one first)
endif
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv-oldest/installed: requirements.txt pyproject.toml constraints-oldest.txt
ifeq ($(PYTHON),)
	$(error no Python 3.12 or newer found as python3.12, python3.13 or python3; install one first)
endif
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -c constraints-oldest.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv-aot/installed: requirements.txt pyproject.toml
ifeq ($(PYTHON),)
	$(error no Python 3.12 or newer found as python3.12, python3.13 or python3; install one first)
endif
	$(PYTHON) -m venv .venv-aot
	.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check \
		-e '.[train,aot]' hypothesis pytest -c requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-aot
