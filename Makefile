# What this project can do, by name. `make` lists it. Every target sets up what it needs (tools/setup.sh) before it runs.
LEVEL ?= PongNoFrameskip-v4
LOGDIR ?= logdir/$(subst /,-,$(LEVEL))
LEARNERS ?= 1
ARGS =
PY = .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install install-actor install-learner install-vizdoom train evaluate test test-levels test-hosts test-slurm lint types manifests bench learn docs clean

help:  ## this list
	@echo "usage: make TARGET [LEVEL=$(LEVEL)] [LOGDIR=$(LOGDIR)] [LEARNERS=$(LEARNERS)] [ARGS=\"--flag=value ...\"]"
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name does; do printf '  %-14s %s\n' "$$name" "$$does"; done

install:  ## everything: training, several learners (compiles Horovod), tests
	@tools/setup.sh learner dev

install-actor:  ## only what an actor or a single learner needs; nothing is compiled
	@tools/setup.sh

install-learner:
	@tools/setup.sh learner

install-vizdoom:  ## VizDoom and its maps, for the levels doom_*; hosts that act need it
	@tools/setup.sh vizdoom

train: install-$(if $(filter 1,$(LEARNERS)),actor,learner)  ## train on LEVEL into LOGDIR, with LEARNERS learners; ARGS are flags of experiment.py; a run found there is resumed
	$(PY) experiment.py '--level_name=$(LEVEL)' '--logdir=$(LOGDIR)' $(if $(filter 1,$(LEARNERS)),,--num_learners=$(LEARNERS)) $(ARGS)

evaluate: install-actor  ## play with the last checkpoint of LOGDIR; ARGS are flags of experiment.py, such as --test_num_episodes=20
	$(PY) experiment.py --mode=test '--config=$(LOGDIR)/config.json' '--logdir=$(LOGDIR)' $(ARGS)

test: install  ## the default tests; ARGS are arguments of pytest
	$(PY) -m pytest $(ARGS)

test-levels: install install-vizdoom  ## every game of Atari-57 for 1,000 steps, and learning on all at once: minutes; ARGS are arguments of pytest
	$(PY) -m pytest -m levels $(ARGS)

test-hosts: install  ## the commands of docker/compose.yaml as they stand, outside containers; ARGS are arguments of pytest
	$(PY) -m pytest -m hosts --timeout=900 $(ARGS)

test-slurm: install  ## sandbox/slurm on a real Slurm of three nodes in network namespaces: minutes, as root
	$(PY) -m pytest -m slurm --timeout=1500 $(ARGS)

learn: install  ## the long learning runs: hours; ARGS are arguments of pytest
	$(PY) -m pytest -m learning --timeout=14400 $(ARGS)

bench: install-actor  ## throughput of the parts; ARGS are flags of benchmarks.roofline
	$(PY) -m benchmarks.roofline $(ARGS)

lint:  ## ruff: rules and format
	@tools/setup.sh dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types:  ## mypy
	@tools/setup.sh dev
	$(PY) -m mypy

docs:  ## the documentation as a site: site/index.html; a warning is an error
	@tools/setup.sh docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

manifests:  ## docker/compose.yaml and sandbox/kubernetes against published schemas
	@tools/setup.sh
	@test -e .tools/schemas/done || { .tools/uv/bin/python -m venv .tools/schemas \
	    && .tools/schemas/bin/python -m pip install -q kubernetes-validate==1.37.0 \
	    && .tools/schemas/bin/python -m pip install -q --no-deps docker-compose==1.29.2 && touch .tools/schemas/done; }
	@.tools/schemas/bin/python tools/manifests.py

clean:  ## remove .venv, .tools, site and caches; logdir stays
	rm -rf .venv .tools site .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
