import re

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmsemi.apis.launch import UsageError
from tests.tools.test_runs import load_tool

tool = load_tool('analysis/benchmark_data.py')
CONFIG = 'mllc/mllc_r101_voc.py'


def test_transforms_and_workers_are_timed(capsys):
    threads = torch.get_num_threads()
    size = ['--synthetic', '80', '60']
    tool.main([CONFIG, *size, '--workers', '1', '--batches', '2', '--step', '0.5'])
    torch.set_num_threads(threads)
    text = capsys.readouterr().out
    times = dict(re.findall(r'^(\w+) +([\d.]+) ms an image', text, re.M))
    assert list(times)[:5] == ['LoadImageFromFile', 'LoadSegAnnotations', 'RandomScale', 'RandomCrop', 'RandomFlip']
    assert 'collate' in times
    assert re.search(r'^ +1 +[\d.]+ +[\d.]+ s +\d+%$', text, re.M)


def test_what_workers_send_is_bytes(tmp_path):
    from mmengine.config import Config
    from mmengine.runner import Runner

    from mmsemi.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(f'configs/{CONFIG}')
    tool.use_synthetic(cfg, tmp_path, 80, 60, '.png')
    settings = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    loader: DataLoader = Runner.build_dataloader(Config(settings)._cfg_dict, seed=0)
    loader.dataset.full_init()
    seen = []
    for pipeline in loader.dataset.pipelines.values():
        for step in pipeline.transforms:
            original = step.transform

            def watched(results, original=original):
                results = original(results)
                seen.extend(results[key].dtype for key in ('img', 'gt_seg_map') if results.get(key) is not None)
                return results

            step.transform = watched
    batch = next(iter(loader))
    assert set(seen) == {np.dtype(np.uint8)}
    assert {image.dtype for image in batch['inputs']} == {torch.uint8}
    masks = [sample.gt_sem_seg.data for sample in batch['data_samples'] if 'gt_sem_seg' in sample]
    assert masks and {mask.dtype for mask in masks} == {torch.uint8}
    assert loader.collate_fn is pseudo_collate or loader.collate_fn.func is pseudo_collate


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--workers', '1', '0'], '--workers must be at least 1, not 0'),
        (['--batches', '0'], '--batches must be at least 1, not 0'),
        (['--synthetic', '0', '5'], '--synthetic must be at least 1, not 0'),
        (['--step', '0'], '--step must be above 0 seconds, not 0'),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        tool.main([CONFIG, *arguments])
