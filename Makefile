# Everything a person types. Each target sets up what it needs first; a set-up with nothing to do takes a moment.
#   PYTHON=python3.12   the interpreter of the environment (.venv)
#   TORCH_INDEX_URL=…   index of PyTorch's wheels: without CUDA, or of an older one
#   ROS=wheels          ignore a ROS installation; ROS=/opt/ros/jazzy picks one

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint eval replay soak bench checkpoint dataset check-data train train-small check clean distclean

PYTHON ?= python3
# Tests, replays, evaluations and demos talk to nobody else: this machine only, and a free ROS domain (NAV_DOMAIN_ID
# chooses one), whatever ROS_DOMAIN_ID says.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
WITH_ENV := . scripts/env.sh &&

help:  ## this list
	@echo "Dual-system vision-language navigation over ROS 2"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## ROS 2 (installation or wheels), Python environment in .venv, colcon build
	@$(PYTHON) scripts/setup_workspace.py

demo: setup  ## a robot follows sentences, in the browser: EPISODES=n SEED=s HEADLESS=1 MODEL=<checkpoint> S1=oracle S2=oracle LOOK=plain
	@$(WITH_ENV) exec python -m dual_nav_bringup.demo $(if $(EPISODES),--episodes $(EPISODES)) $(if $(SEED),--seed $(SEED)) \
	  $(if $(filter-out 0,$(HEADLESS)),--headless) $(if $(MODEL),--model "$(MODEL)") $(if $(S1),--s1 "$(S1)") \
	  $(if $(S2),--s2 "$(S2)") $(if $(LOOK),--look $(LOOK)) $(ARGS)

test: setup  ## style, package metadata, colcon test of all packages, result
	@$(PYTHON) scripts/fetch_debian.py --browser
	@$(WITH_ENV) scripts/run_tests.sh $(PACKAGES)

lint: setup  ## style and package metadata only
	@$(WITH_ENV) ruff check . && ruff format --check . && python scripts/check_packages.py

replay: setup  ## both nodes on a recording: BAG=<rosbag2 folder> RATE=1.0 LOOP=1 MODEL=<checkpoint> OUT=<folder>
	@$(WITH_ENV) python -m dual_nav_bringup.replay $(if $(BAG),--bag "$(BAG)") $(if $(RATE),--rate $(RATE)) \
	  $(if $(LOOP),--loop $(LOOP)) $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)") $(ARGS)

soak: setup  ## both nodes on a recording for an hour: does memory grow? MINUTES=60 BAG=<rosbag2 folder> MODEL=<checkpoint> OUT=<folder>
	@$(WITH_ENV) python -m dual_nav_bringup.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(BAG),--bag "$(BAG)") \
	  $(if $(RATE),--rate $(RATE)) $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)") $(ARGS)

eval: setup  ## closed loop in the simulator: EPISODES=n SEED=s SPLIT=test FAMILY=object S1=oracle S2=oracle (or <checkpoint>; default: models/) VIDEO=1 RECORD=1 IN_PROCESS=1 OUT=<folder>
	@$(WITH_ENV) exec python -m dual_nav_bringup.evaluate $(if $(EPISODES),--episodes $(EPISODES)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(SPLIT),--split $(SPLIT)) $(if $(FAMILY),--family $(FAMILY)) $(if $(S1),--s1 "$(S1)") \
	  $(if $(S2),--s2 "$(S2)") $(if $(LOOK),--look $(LOOK)) $(if $(OUT),--out "$(OUT)") $(if $(filter-out 0,$(VIDEO)),--video) \
	  $(if $(filter-out 0,$(RECORD)),--record) $(if $(filter-out 0,$(IN_PROCESS)),--in-process) $(ARGS)

bench: setup  ## speed of both models against a plain implementation, overhead of the runtime: ARGS="s1 overhead"
	@$(WITH_ENV) python bench/run.py $(ARGS)

checkpoint: setup  ## random-weight checkpoint in the released layout: OUT=<folder> SIZE=tiny SYSTEM1=nextdit_async
	@$(WITH_ENV) python -m dual_nav_training.random_checkpoint $(or $(OUT),checkpoints/random) \
	  $(if $(SIZE),--size $(SIZE)) $(if $(SYSTEM1),--system1 $(SYSTEM1)) $(ARGS)

dataset: setup  ## training data from the simulator: OUT=<folder> EPISODES=100 SEED=0 SPLIT=train LAYOUT=vln_ce|vln_n1|both LOOK=plain SIZE=640x480 WORKERS=n
	@$(WITH_ENV) exec python -m dual_nav_training.make_dataset --out "$(or $(OUT),$(error give OUT=<folder>))" \
	  $(if $(EPISODES),--episodes $(EPISODES)) $(if $(SEED),--seed $(SEED)) $(if $(SPLIT),--split $(SPLIT)) \
	  $(if $(LAYOUT),--layout $(LAYOUT)) $(if $(LOOK),--look $(LOOK)) $(if $(SIZE),--size $(SIZE)) \
	  $(if $(WORKERS),--workers $(WORKERS)) $(ARGS)

check-data: setup  ## what is in a data set, with pictures: DATA=<folder> OUT=<folder for the pictures>
	@$(WITH_ENV) exec python -m dual_nav_training.check_dataset "$(or $(DATA),$(error give DATA=<data set>))" \
	  $(if $(OUT),--out "$(OUT)") $(ARGS)

train: setup  ## training: MODE=s2|s1_navdp|dual|joint DATA=<data set> MODEL=<checkpoint> OUT=<run folder> CONFIG=<yaml> PROCESSES=<number, or accelerate yaml>
	@$(WITH_ENV) exec python $(if $(filter %.yaml,$(PROCESSES)),-m accelerate.commands.launch --config_file "$(PROCESSES)",\
	  $(if $(PROCESSES),-m torch.distributed.run --standalone --nproc-per-node $(PROCESSES))) \
	  -m dual_nav_training.train $(or $(MODE),$(error give MODE=s2, s1_navdp, dual or joint)) \
	  --config "$(or $(CONFIG),training/config/$(MODE).yaml)" --data "$(or $(DATA),$(error give DATA=<data set>))" \
	  --checkpoint "$(or $(MODEL),$(error give MODEL=<checkpoint to begin with>))" --output "$(or $(OUT),runs/$(MODE))" $(ARGS)

train-small: setup  ## small planner from nothing: OUT=runs/small CPU=1 (two cores; without: a GPU)
	@$(WITH_ENV) exec python -m dual_nav_training.small.recipe "$(or $(OUT),runs/small)" \
	  $(if $(filter-out 0,$(CPU)),--size cpu) $(ARGS)

check: setup  ## what is in a checkpoint folder and what each process will load: MODEL=<folder>
	@$(WITH_ENV) python -m dual_nav_training.check_checkpoint "$(or $(MODEL),$(error give MODEL=<checkpoint folder>))"

clean:  ## remove what was built, keep the environment
	@rm -rf build install log .state/build

distclean: clean  ## remove the environment too
	@rm -rf .venv .state
