#!/usr/bin/env bash
# Train on several GPUs, or, where there is none, with several processes on the CPU.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" "$ROOT/tools/dist_run.py" "$2" "$ROOT/tools/train.py" "$1" "${@:3}"
