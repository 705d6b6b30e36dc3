"""Start several processes of a tool; what ends a rank is the last line, and its exit status is ours.

    python tools/dist_run.py PROCESSES tools/train.py CONFIG [arguments]

NNODES, NODE_RANK, MASTER_ADDR and PORT come from the environment; on one machine a free port is taken unless PORT is
set.
"""

from __future__ import annotations

import sys

from mmsemi.apis.ranks import start_ranks


def main() -> int:
    """Run the tool and return the exit status of the rank that failed first, or 0."""
    processes, *tool = sys.argv[1:]
    if not processes.isdigit() or int(processes) < 1:
        print(f'error: the number of GPUs must be 1 or more, not {processes!r}', file=sys.stderr)
        return 2
    return start_ranks(int(processes), tool)


if __name__ == '__main__':
    sys.exit(main())
