"""What a long list of unlabeled images costs: time until training could start, and memory of each worker.

    python tools/analysis/benchmark_listing.py --counts 10000 100000 1000000

makes empty files in a temporary folder, lists them as training does and starts worker processes that walk through them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

from mmsemi.apis.launch import quiet, run

with quiet():
    from mmsemi.datasets import SemiDataset
    from mmsemi.datasets.files import find_images

_FILES_A_FOLDER = 10_000


def make_files(root: Path, count: int) -> None:
    """Make empty files, ten thousand a folder."""
    for number in range(count):
        folder = root / f'{number // _FILES_A_FOLDER:04d}'
        if number % _FILES_A_FOLDER == 0:
            folder.mkdir(parents=True)
        os.close(os.open(folder / f'image_{number:08d}.jpg', os.O_CREAT | os.O_WRONLY))


def own_memory() -> float:
    """MiB that are this process's alone: written to since it began."""
    for line in Path('/proc/self/smaps_rollup').read_text().splitlines():
        if line.startswith('Private_Dirty'):
            return int(line.split()[1]) / 1024
    return float('nan')


def walk(data: SemiDataset, steps: int, answers: multiprocessing.Queue) -> None:
    """Touch ``steps`` images as a worker does, and tell how much memory that took."""
    before = own_memory()
    stride = max(1, len(data) // steps)
    for index in range(0, len(data), stride):
        data.get_data_info(index)
    answers.put(own_memory() - before)


def measure(count: int, steps: int) -> tuple[float, float, float, float]:
    """Seconds to list, seconds until the data set is ready, MiB of the table, MiB that a worker adds."""
    with tempfile.TemporaryDirectory() as folder:
        labeled, unlabeled = Path(folder) / 'labeled', Path(folder) / 'unlabeled'
        labeled.mkdir()
        (labeled / 'x.jpg').touch()
        make_files(unlabeled, count)
        started = time.perf_counter()
        find_images(str(unlabeled))
        listing = time.perf_counter() - started
        pool = dict(type='ImageFolder', data_root=str(labeled), metainfo=dict(classes=('a', 'b')))
        data = SemiDataset(pool, labeled=1, unlabeled=str(unlabeled), check_files=False)
        started = time.perf_counter()
        with quiet():
            data.full_init()
        ready = time.perf_counter() - started
        context = multiprocessing.get_context('fork')
        answers = context.Queue()
        worker = context.Process(target=walk, args=(data, steps, answers))
        worker.start()
        added = answers.get()
        worker.join()
        table = data._unlabeled.column('img_path').nbytes / 2**20
    return listing, ready, table, added


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description='What a long list of unlabeled images costs')
    parser.add_argument('--counts', type=int, nargs='+', default=[10_000, 100_000, 1_000_000])
    parser.add_argument('--steps', type=int, default=100_000, help='images that a worker touches')
    args = parser.parse_args()
    print('| images | listing the folder (s) | ready (s) | paths (MiB) | added a worker (MiB) |')
    print('| --- | --- | --- | --- | --- |')
    for count in args.counts:
        listing, ready, table, added = measure(count, args.steps)
        print(f'| {count:,} | {listing:.2f} | {ready:.2f} | {table:.1f} | {added:.1f} |', flush=True)


if __name__ == '__main__':
    run(main)
