# The index of what one can do here: `make help`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SA2NET := $(BIN)/python -m sa2net
# Nothing leaves the machine unasked.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
export GX_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run local local-docker compile submit images pin doctor story test test-long test-gpu lint check ui clean

help:  ## Print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/|/' | column -t -s '|'

setup: $(VENV)/.installed  ## Make the virtual environment .venv with the locked dependencies

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV); torch is large, this takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup  ## The main job: validate, train, evaluate, register; what is up to date is skipped
	@test -d data || $(BIN)/dvc pull --quiet data.dvc
	@test -d weights || $(BIN)/dvc pull --quiet weights.dvc
	@$(SA2NET) unlock
	$(BIN)/dvc repro
	@echo
	@$(SA2NET) register

# Where pipelines run, a section of infra/environments.yaml; ARGS are further options, e.g. ARGS='--set train.epochs=3 --watch'.
ENV ?= cluster
ARGS ?=

local: setup  ## The Kubeflow pipeline on this machine, each step a subprocess (ARGS='--recipe smoke')
	$(BIN)/python -m pipelines.local $(ARGS)

local-docker: setup  ## The same in the project's images
	$(BIN)/python -m pipelines.local --docker $(ARGS)

compile: setup  ## Check the settings and write build/training.yaml for ENV
	$(BIN)/python -m pipelines.compile --env $(ENV) $(ARGS)

submit: setup  ## Submit the pipeline to Kubeflow (ENV=cluster ARGS='--set train.epochs=3 --watch')
	$(BIN)/python -m pipelines.submit --env $(ENV) $(ARGS)

images: setup  ## Build the images `tools` and `torch`
	$(BIN)/python -m pipelines.images build $(ARGS)

pin: setup  ## Resolve every image to its digest, into infra/images.lock.json
	$(BIN)/python -m pipelines.images pin $(ARGS)

doctor: setup  ## Check MLflow, S3, DVC, Kubeflow, GPU and disk, one line each
	$(SA2NET) doctor $(ARGS)

story: setup  ## The story of a champion, told with the real commands: promote, refuse, roll back, approve, tamper
	OMP_NUM_THREADS=1 $(BIN)/python tests/story.py

# Threads that wait asleep: spinning ones take the cores from the other processes.
# By file, in their order: the many short files of tests/unit come last, so that no process waits for another at the end.
SHARED := --no-loadscope-reorder --durations=15

test: setup  ## The whole test set but the long tests and those of a GPU (ARGS=--cov for coverage)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m 'not long and not gpu' --numprocesses 3 $(SHARED) $(ARGS)

test-long: setup  ## The long tests: full line, crash and resume, images and pipeline in real containers
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m long --numprocesses 2 $(SHARED) $(ARGS)

test-gpu: setup  ## What only a GPU can show: needs one
	$(BIN)/python -m pytest tests/gpu

lint: setup  ## Format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint  ## Format, lint, types, layers and unit tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit --numprocesses 2 --quiet

ui: setup  ## Look at runs and versions in a browser: http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///var/mlflow.db

clean:  ## Remove what the steps made (registry and checkpoints in var/ stay)
	rm -rf build
