#!/usr/bin/env bash
# Train with several processes on this machine. What stands behind the script goes to `alexnet train`:
#
#   PROCESSES=2 launch/one-machine.sh data/prepared --recipe paper --run runs/columns --columns 2
#   PROCESSES=2 launch/one-machine.sh data/prepared --recipe paper --run runs/replicas
#   PROCESSES=4 launch/one-machine.sh data/prepared --recipe paper --run runs/both --columns 2
#
# There are PROCESSES / columns replicas. The same command again goes on with a run that was broken off.
set -euo pipefail

PROCESSES=${PROCESSES:-2}
CORES=$(nproc)

# torchrun gives each process one thread where this is not set.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((CORES > PROCESSES ? CORES / PROCESSES : 1))}
# Seconds that a step, a measurement and a checkpoint may take after SIGTERM or Ctrl-C before torchrun kills.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

# `--`: torchrun would otherwise take --run for one of its own options.
exec torchrun --standalone --nproc-per-node "$PROCESSES" --max-restarts "${RESTARTS:-3}" -m -- alexnet train "$@"
