#!/usr/bin/env bash
# Evaluate on several GPUs, or, where there is none, with several processes on the CPU.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of test.py]" >&2
    exit 2
fi
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec "$PYTHON" "$ROOT/tools/dist_run.py" "$3" "$ROOT/tools/test.py" "$1" "$2" "${@:4}"
