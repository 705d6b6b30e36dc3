"""How many images a second workers bring, where their time goes, and which step of training that feeds.

    python tools/analysis/benchmark_data.py mllc/mllc_r101_voc.py --step 0.5
    python tools/analysis/benchmark_data.py mllc/mllc_r101_cityscapes.py --synthetic 2048 1024 --suffix .png

Batches are those of the config: its sampler, its transforms. With --synthetic they are made of drawn images of that
width and height, so that no data set is needed. The first table has the CPU time of an image by transform, in one
process; 'collate' is laying a batch side by side for the device, which the training process does. The second has what
so many workers bring, in images a second of the clock, and the shortest step that they keep up with; with --step, the
share of what a step of so many seconds needs.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmsemi.apis.launch import UsageError, load_config, quiet, run
from mmsemi.apis.options import OptionsAction
from mmsemi.registry import MODELS
from mmsemi.utils import register_all_modules

CLASSES = 19
SYNTHETIC = 24
"""Images that are drawn."""


def draw(folder: Path, width: int, height: int, suffix: str) -> dict:
    """Draw smooth, noisy images and masks of blobs, and return the config of their data set."""
    rng = np.random.default_rng(0)
    for name in ('images', 'masks'):
        (folder / name).mkdir()
    for number in range(SYNTHETIC):
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = image + rng.normal(0, 8, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / 'images' / f'{number}{suffix}', quality=92)
        blobs = rng.integers(0, CLASSES, (height // 64 + 1, width // 64 + 1), dtype=np.uint8)
        mask = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_NEAREST)
        Image.fromarray(mask).save(folder / 'masks' / f'{number}.png')
    classes = tuple(f'class {label}' for label in range(CLASSES))
    return dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix=suffix,
        seg_map_suffix='.png',
        metainfo=dict(classes=classes, palette=[[label] * 3 for label in range(CLASSES)]),
    )


def use_synthetic(cfg: Config, folder: Path, width: int, height: int, suffix: str) -> None:
    """Put drawn images in the place of a config's own."""
    dataset = cfg.train_dataloader.dataset
    dataset.dataset = draw(folder, width, height, suffix)
    unlabeled = 'none' if dataset.get('unlabeled') == 'none' else 'rest'
    dataset.update(labeled=SYNTHETIC // 2, unlabeled=unlabeled, candidates=None)


def time_transforms(loader: torch.utils.data.DataLoader, images: int) -> dict[str, float]:
    """CPU seconds of an image by transform, the mean over as many images of both streams."""
    dataset, spent = loader.dataset, defaultdict(float)
    pipelines = list(dataset.pipelines.values())
    originals = [pipeline.transforms for pipeline in pipelines]
    for pipeline in pipelines:
        pipeline.transforms = [_Timed(each, spent) for each in pipeline.transforms]
    for key in itertools.islice(itertools.cycle(list(loader.batch_sampler.sampler)), images):
        dataset[key]
    for pipeline, original in zip(pipelines, originals, strict=True):
        pipeline.transforms = original
    return {name: seconds / images for name, seconds in spent.items()}


class _Timed:
    """A transform, and the time it takes."""

    def __init__(self, transform: object, spent: dict[str, float]) -> None:
        self.transform, self.spent = transform, spent

    def __call__(self, results: dict) -> dict:
        start = time.process_time()
        results = self.transform(results)
        self.spent[type(self.transform).__name__] += time.process_time() - start
        return results


def time_workers(cfg: Config, workers: int, batches: int) -> float:
    """Images a second that so many workers bring, once they run."""
    settings = dict(cfg.train_dataloader, num_workers=workers, persistent_workers=False)
    loader = Runner.build_dataloader(Config(settings)._cfg_dict, seed=0)
    found = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(2 * workers):  # what workers make before it is asked for
        size = len(next(found)['inputs'])
    start = time.perf_counter()
    for _ in range(batches):
        next(found)
    return batches * size / (time.perf_counter() - start)


def time_collate(cfg: Config, loader: torch.utils.data.DataLoader, repeats: int = 5) -> float:
    """CPU seconds of an image until a batch lies in one piece."""
    with quiet():
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
    batch = next(iter(loader))
    start = time.process_time()
    for _ in range(repeats):
        preprocessor._side_by_side(batch['inputs'], batch['data_samples'])
    return (time.process_time() - start) / repeats / len(batch['inputs'])


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2, 4, 8], help='numbers of workers to try')
    parser.add_argument('--batches', type=int, default=20, help='to time with each number of workers')
    parser.add_argument('--step', type=float, metavar='SECONDS', help='how long a step of training takes')
    parser.add_argument('--synthetic', type=int, nargs=2, metavar=('WIDTH', 'HEIGHT'), help='draw images of this size')
    parser.add_argument('--suffix', choices=('.jpg', '.png'), default='.jpg', help='of drawn images')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='override config keys'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(arguments)
    for name, values in (('workers', args.workers), ('batches', [args.batches]), ('synthetic', args.synthetic or [])):
        if min(values, default=1) < 1:
            raise UsageError(f'--{name} must be at least 1, not {min(values)}.')
    if args.step is not None and args.step <= 0:
        raise UsageError(f'--step must be above 0 seconds, not {args.step:g}.')
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        args.work_dir, args.launcher, args.local_rank = folder, 'none', 0
        cfg = load_config(args)
        with quiet():
            register_all_modules(init_default_scope=True)
        if args.synthetic:
            use_synthetic(cfg, Path(folder), *args.synthetic, args.suffix)
        settings = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
        loader = Runner.build_dataloader(Config(settings)._cfg_dict, seed=0)
        loader.dataset.full_init()
        spent = time_transforms(loader, 4 * settings['batch_size'])
        spent['collate'] = time_collate(cfg, loader)
        whole = sum(spent.values())
        print(f'{args.config}: {settings["batch_size"]} images a batch')
        for name, seconds in spent.items():
            print(f'{name:24}{1e3 * seconds:8.2f} ms an image{100 * seconds / whole:7.0f} %')
        print(f'{"workers":>8}{"images/s":>10}{"feeds a step of":>20}' + (f'{"of need":>10}' if args.step else ''))
        for workers in args.workers:
            rate = time_workers(cfg, workers, args.batches)
            step = settings['batch_size'] / rate
            share = f'{100 * args.step / step:9.0f}%' if args.step else ''
            print(f'{workers:8}{rate:10.1f}{step:18.3f} s{share}')


if __name__ == '__main__':
    run(main)
