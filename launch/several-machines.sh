#!/usr/bin/env bash
# Train on several machines. Start this script on each of them with the same settings. All arguments are passed to
# `alexnet train`:
#
#   HEAD=node1:29400 MACHINES=2 PROCESSES=2 launch/several-machines.sh data/prepared --recipe paper --run runs/both \
#       --columns 2
#
# HEAD       one of the machines (a name or address that the others can reach) and a free port on it
# MACHINES   number of machines
# PROCESSES  processes per machine; use an even number with --columns 2 to keep both columns on one machine
# ADDRESS    this machine's name or address for the others (on the head: as in HEAD). Set it if the host name
#            resolves to something else, such as 127.0.1.1; then set GLOO_SOCKET_IFNAME=eth1 (and NCCL_SOCKET_IFNAME) too
#
# The prepared data set must be on every machine, at any path. Rank 0 writes the run folder; it is on the machine whose
# name (or ADDRESS) comes first alphabetically.
set -euo pipefail

HEAD=${HEAD:?set it to NAME:PORT of the rendezvous machine, for example HEAD=node1:29400}
MACHINES=${MACHINES:?set it to the number of machines}
PROCESSES=${PROCESSES:-2}
CORES=$(nproc)

# If this is unset, torchrun gives each process one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((CORES > PROCESSES ? CORES / PROCESSES : 1))}
# Seconds for the current step, measurement and checkpoint after SIGTERM or Ctrl-C, before torchrun kills.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}

RENDEZVOUS=(--rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${MEETING:-alexnet}")
if [ -n "${ADDRESS:-}" ]; then
  [ "$ADDRESS" = "${HEAD%:*}" ] && IS_HEAD=true || IS_HEAD=false
  RENDEZVOUS+=(--rdzv-conf "is_host=$IS_HEAD" --local-addr "$ADDRESS")
fi

# `--`: otherwise torchrun reads --run as one of its own options.
exec torchrun --nnodes "$MACHINES" --nproc-per-node "$PROCESSES" --max-restarts "${RESTARTS:-3}" "${RENDEZVOUS[@]}" \
  -m -- alexnet train "$@"
