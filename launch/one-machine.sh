#!/usr/bin/env bash
# Train with several processes on this machine. All arguments are passed to `alexnet train`:
#
#   PROCESSES=2 launch/one-machine.sh data/prepared --recipe paper --run runs/columns --columns 2
#   PROCESSES=2 launch/one-machine.sh data/prepared --recipe paper --run runs/replicas
#   PROCESSES=4 launch/one-machine.sh data/prepared --recipe paper --run runs/both --columns 2
#
# PROCESSES divided by the columns is the number of replicas. Rerun the same command to continue an interrupted run.
set -euo pipefail

PROCESSES=${PROCESSES:-2}
CORES=$(nproc)

# If this is unset, torchrun gives each process one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((CORES > PROCESSES ? CORES / PROCESSES : 1))}
# Seconds for the current step, measurement and checkpoint after SIGTERM or Ctrl-C, before torchrun kills.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

# `--`: otherwise torchrun reads --run as one of its own options.
exec torchrun --standalone --nproc-per-node "$PROCESSES" --max-restarts "${RESTARTS:-3}" -m -- alexnet train "$@"
