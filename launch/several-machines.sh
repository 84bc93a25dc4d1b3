#!/usr/bin/env bash
# Train on several machines. Start it on each of them with the same settings; what stands behind it goes to
# `alexnet train`:
#
#   HEAD=node1:29400 MACHINES=2 PROCESSES=2 launch/several-machines.sh data/prepared --recipe paper --run runs/both \
#       --columns 2
#
# HEAD       one of the machines, by the name or address under which the others reach it, and a free port of it
# MACHINES   how many there are
# PROCESSES  on each of them; even with --columns 2, so that both columns of a network are on one machine
# ADDRESS    this machine's name or address for the others (on the head: as in HEAD), where its host name leads
#            somewhere else, for example to 127.0.1.1; then GLOO_SOCKET_IFNAME=eth1 (and NCCL_SOCKET_IFNAME) too
#
# The prepared data set must be on every machine, at the same place or not. The first process writes the run folder; it
# is on the machine whose name (or ADDRESS) comes first in the alphabet.
set -euo pipefail

HEAD=${HEAD:?set it to NAME:PORT of the machine where all meet, for example HEAD=node1:29400}
MACHINES=${MACHINES:?set it to the number of machines}
PROCESSES=${PROCESSES:-2}
CORES=$(nproc)

# torchrun gives each process one thread where this is not set.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((CORES > PROCESSES ? CORES / PROCESSES : 1))}
# Seconds that a step, a measurement and a checkpoint may take after SIGTERM or Ctrl-C before torchrun kills.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

AGREED=(--rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${MEETING:-alexnet}")
if [ -n "${ADDRESS:-}" ]; then
  [ "$ADDRESS" = "${HEAD%:*}" ] && IS_HEAD=true || IS_HEAD=false
  AGREED+=(--rdzv-conf "is_host=$IS_HEAD" --local-addr "$ADDRESS")
fi

# `--`: torchrun would otherwise take --run for one of its own options.
exec torchrun --nnodes "$MACHINES" --nproc-per-node "$PROCESSES" --max-restarts "${RESTARTS:-3}" "${AGREED[@]}" \
  -m -- alexnet train "$@"
