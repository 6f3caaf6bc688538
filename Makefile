# The project's commands. `make` lists them. Every target first sets up what it needs (tools/setup.sh).
LEVEL ?= PongNoFrameskip-v4
comma := ,
LOGDIR ?= logdir/$(patsubst .-%,%,$(subst :,-,$(subst $(comma),-,$(subst /,-,$(LEVEL)))))
LEARNERS ?= 1
ARGS =
PY = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install install-actor install-learner install-vizdoom install-dmlab install-mujoco install-box2d install-export install-optuna train evaluate case-studies test test-slow test-levels test-commands test-hosts test-slurm lint types manifests bench learn docs wheel clean

help:  ## print this list
	@echo "usage: make TARGET [LEVEL=$(LEVEL)] [LOGDIR=$(LOGDIR)] [LEARNERS=$(LEARNERS)] [ARGS=\"--flag=value ...\"]"
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name does; do printf '  %-15s %s\n' "$$name" "$$does"; done

install:  ## set up everything: training, several learners (compiles Horovod), tests
	@tools/setup.sh learner dev

install-actor:  ## set up what actors and a single learner need; nothing is compiled
	@tools/setup.sh

install-learner:
	@tools/setup.sh learner

install-vizdoom:  ## set up VizDoom and its maps for the levels doom_*; needed on hosts with actors
	@tools/setup.sh vizdoom

install-dmlab:  ## set up what DeepMind Lab's package imports; the Lab itself is in no package index
	@tools/setup.sh dmlab
	@$(PY) -c 'from mlma.command.install import AFTERWARDS; print(AFTERWARDS["install-dmlab"])'

install-mujoco:  ## set up MuJoCo for gymnasium's HalfCheetah-v5, Hopper-v5, Humanoid-v5, ...; needed on hosts with actors
	@tools/setup.sh mujoco

install-box2d:  ## set up Box2D for LunarLander-v3, BipedalWalker-v3, CarRacing-v3; needed on hosts with actors
	@tools/setup.sh box2d

install-export:  ## set up what exports to ONNX and LiteRT need; SavedModels need nothing
	@tools/setup.sh export

install-optuna:  ## set up Optuna, for studies with search = optuna
	@tools/setup.sh optuna

train: install-$(if $(filter 1,$(LEARNERS)),actor,learner)  ## train on LEVEL with LEARNERS learners; resumes a run found in LOGDIR; ARGS: flags of experiment.py
	$(PY) experiment.py '--level_name=$(LEVEL)' '--logdir=$(LOGDIR)' $(if $(filter 1,$(LEARNERS)),,--num_learners=$(LEARNERS)) $(ARGS)

evaluate: install-actor  ## evaluate the last checkpoint of LOGDIR; ARGS: flags of experiment.py, such as --test_num_episodes=20
	$(PY) experiment.py --mode=test '--config=$(LOGDIR)/config.json' '--logdir=$(LOGDIR)' $(ARGS)

case-studies: install-actor  ## write pages about the runs in RUNS (logdirs, or folders of them) to sandbox/case_studies/
	$(PY) -m mlma.evaluation.case_studies $(RUNS) $(ARGS)

# Unit tests run beside those that start processes, of which there is one at a time: tests/conftest.py.
test: install  ## run the default tests; ARGS: arguments of pytest, in one process
	$(PY) -m pytest $(or $(ARGS),--numprocesses=2)

test-slow: install install-vizdoom  ## run the faults and variants that take long: minutes
	$(PY) -m pytest -m slow $(ARGS)

test-levels: install install-vizdoom  ## run every game of Atari-57 for 1,000 steps, then learn all at once: minutes
	$(PY) -m pytest -m levels $(ARGS)

test-commands: install install-vizdoom install-export  ## run the commands of the documentation and the benchmarks: minutes
	$(PY) -m pytest -m commands $(ARGS)

test-hosts: install  ## run the commands of docker/compose.yaml unchanged, outside containers
	$(PY) -m pytest -m hosts --timeout=900 $(ARGS)

test-slurm: install  ## run sandbox/slurm on a real Slurm of three nodes in network namespaces: minutes, needs root
	$(PY) -m pytest -m slurm --timeout=1500 $(ARGS)

learn: install  ## run the long learning tests: hours; ARGS: arguments of pytest
	$(PY) -m pytest -m learning --timeout=14400 $(ARGS)

bench: install-actor  ## measure throughput against the roofline; ARGS: flags of the benchmark
	$(PY) -m benchmarks.roofline $(ARGS)

lint:  ## check rules and format with ruff
	@tools/setup.sh dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types:  ## check types with mypy
	@tools/setup.sh dev
	$(PY) -m mypy

docs:  ## build the documentation site into site/; a warning is an error
	@tools/setup.sh docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

wheel:  ## build the package into dist/, for `pip install dist/mlma-*.whl`
	@tools/setup.sh dev
	$(PY) -m hatchling build -t wheel -d dist

manifests:  ## check docker/compose.yaml and sandbox/kubernetes against published schemas
	@tools/setup.sh
	@test -e .tools/schemas/done || { .tools/uv/bin/python -m venv .tools/schemas \
	    && .tools/schemas/bin/python -m pip install -q kubernetes-validate==1.37.0 \
	    && .tools/schemas/bin/python -m pip install -q --no-deps docker-compose==1.29.2 && touch .tools/schemas/done; }
	@.tools/schemas/bin/python tools/manifests.py

clean:  ## remove .venv, .tools, site, dist and caches, but not logdir
	rm -rf .venv .tools site dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
