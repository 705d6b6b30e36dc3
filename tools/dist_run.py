"""Start several processes of a tool: ``torchrun``, but what ends a rank is the last line, and its exit status is ours.

    python tools/dist_run.py PROCESSES tools/train.py CONFIG [arguments]

NNODES, NODE_RANK, MASTER_ADDR and PORT come from the environment; on one machine a free port is taken unless PORT is
set.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def rendezvous() -> list[str]:
    """Where the processes meet, as arguments of torchrun."""
    env = os.environ
    nodes, port = env.get('NNODES', '1'), env.get('PORT')
    if nodes == '1' and port is None:
        return ['--standalone']
    return [
        f'--nnodes={nodes}',
        f'--node_rank={env.get("NODE_RANK", "0")}',
        f'--master_addr={env.get("MASTER_ADDR", "127.0.0.1")}',
        f'--master_port={port or 29500}',
    ]


def main() -> int:
    """Run the tool and return the exit status of the rank that failed first, or 0."""
    processes, *tool = sys.argv[1:]
    if not processes.isdigit() or int(processes) < 1:
        print(f'error: the number of GPUs must be 1 or more, not {processes!r}', file=sys.stderr)
        return 2
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, str(max(1, cores // int(processes))))
    with tempfile.TemporaryDirectory() as folder:
        sentence = Path(folder) / 'error'
        os.environ['MMSEMI_ERROR_FILE'] = str(sentence)
        try:
            run(parse_args([*rendezvous(), f'--nproc_per_node={processes}', *tool, '--launcher', 'pytorch']))
        except ChildFailedError as error:
            if sentence.exists():
                print(sentence.read_text(encoding='utf-8'), end='', file=sys.stderr)
            return max(1, error.get_first_failure()[1].exitcode)
    return 0


if __name__ == '__main__':
    sys.exit(main())
