"""Half precision, TF32, fused steps, compiled networks, less memory: what a config gets and what it says."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys

import pytest
import torch
import torch._dynamo
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmsemi.apis import acceleration, launch
from mmsemi.apis.training import parse_training
from mmsemi.engine import optim_wrapper
from tests import tiny, tiny_run
from tests.models.test_sync_free import model_of


@pytest.fixture
def machine(monkeypatch):
    """A machine with this device, which has bfloat16 or not."""

    def put(device: str, bfloat16: bool = True) -> None:
        monkeypatch.setattr(acceleration, 'get_device', lambda: device)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: bfloat16)

    return put


def config(**wrapper) -> Config:
    optimizer = dict(type='AdamW', lr=1e-3)
    return Config(dict(model=dict(student=dict()), optim_wrapper=dict(dict(optimizer=optimizer), **wrapper)))


FLOAT16 = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


@pytest.mark.parametrize(
    ('device', 'bfloat16', 'word', 'expected'),
    [
        ('cuda', True, 'auto', dict(type='AutocastOptimWrapper')),
        ('cuda', False, 'auto', FLOAT16),
        ('cuda', True, 'fp16', FLOAT16),
        ('cuda', True, 'bf16', dict(type='AutocastOptimWrapper')),
        ('cpu', True, 'auto', dict(type='AutocastOptimWrapper')),
        ('cpu', True, 'bf16', dict(type='AutocastOptimWrapper')),
        ('npu', True, 'auto', dict(type='AmpOptimWrapper', dtype=None, loss_scale='dynamic')),
    ],
)
def test_amp_is_bfloat16_where_the_device_has_it(device, bfloat16, word, expected, machine):
    machine(device, bfloat16)
    cfg = config(type='OptimWrapper', accumulative_counts=2)
    acceleration.apply_acceleration_arguments(cfg, argparse.Namespace(amp=word, compile=False))
    assert dict(cfg.optim_wrapper, optimizer=None) == dict(expected, optimizer=None, accumulative_counts=2)


def test_a_config_with_a_wrapper_for_mixed_precision_keeps_it_unless_a_precision_is_named(machine):
    machine('cuda')
    for word, kind in (('auto', 'AmpOptimWrapper'), ('bf16', 'AutocastOptimWrapper')):
        cfg = config(type='AmpOptimWrapper', loss_scale=512.0)
        acceleration.set_amp(cfg, word)
        assert cfg.optim_wrapper.type == kind and ('loss_scale' in cfg.optim_wrapper) == (word == 'auto')


@pytest.mark.parametrize(
    ('device', 'word', 'kind', 'message'),
    [
        ('cpu', 'fp16', 'OptimWrapper', 'fp16 needs a GPU, .* take --amp bf16'),
        ('cuda', 'bf16', 'OptimWrapper', 'needs a GPU that has bfloat16, .* take --amp fp16'),
        ('mps', 'auto', 'OptimWrapper', 'does not know the device mps'),
        ('cuda', 'auto', 'ApexOptimWrapper', 'cannot replace optim_wrapper.type=ApexOptimWrapper'),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(device, word, kind, message, machine):
    machine(device, bfloat16=False)
    with pytest.raises(launch.UsageError, match=message):
        acceleration.set_amp(config(type=kind), word)


@pytest.mark.parametrize(
    ('words', 'amp'),
    [
        (['c.py', '--amp'], 'auto'),
        (['--amp', 'c.py'], 'auto'),
        (['c.py', '--amp', 'fp16', '--compile'], 'fp16'),
        (['c.py', '--amp=bf16'], 'bf16'),
        (['c.py', '--amp', '--batch', '4', '4'], 'auto'),
        (['c.py'], None),
    ],
)
def test_the_precision_may_be_left_out(words, amp):
    args = parse_training(words)
    assert (args.config, args.amp, args.compile) == ('c.py', amp, '--compile' in words)


@pytest.mark.parametrize('device', ['cuda', 'cpu'])
def test_optimizers_of_torch_do_fused_steps_on_a_gpu_and_others_nothing_new(device, machine):
    machine(device)
    for kind, asked, fused in (
        ('AdamW', {}, True),
        ('SGD', dict(momentum=0.9), True),
        ('SGD', dict(fused=False), False),
        ('SGD', dict(foreach=True), None),
        ('RMSprop', {}, None),
    ):
        cfg = config()
        cfg.optim_wrapper.optimizer = dict(type=kind, lr=0.1, **asked)
        acceleration.fuse_optimizer(cfg)
        given = asked.get('fused') if device == 'cpu' else fused
        assert cfg.optim_wrapper.optimizer.get('fused') == given
        build_optim_wrapper(nn.Linear(2, 2), cfg.optim_wrapper)


def test_with_cp_is_a_plain_key_of_every_config():
    args = dict(work_dir=None, launcher='none', local_rank=0)
    for path in (
        'mllc/mllc_r18_shapes.py',
        'unimatch_v2/unimatch_v2_dinov2-s_dpt_voc.py',
        'unimatch/unimatch_unet_acdc.py',
    ):
        for asked in ({}, {'with_cp': True}):
            cfg = launch.load_config(argparse.Namespace(config=f'configs/{path}', cfg_options=asked, **args))
            assert bool(cfg.model.student.backbone.get('with_cp')) == bool(asked)
            assert not asked or cfg.model.student.backbone.pop('with_cp')
        own = {'model.student.backbone.with_cp': True}
        cfg = launch.load_config(argparse.Namespace(config=f'configs/{path}', cfg_options=own, **args))
        assert cfg.model.student.backbone.with_cp, 'the longer name says more'


def test_tf32_is_set_on_purpose_and_said(machine, caplog):
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    machine('cuda')
    try:
        for word, convolutions, products in (
            ('convolutions', True, 'highest'),
            ('all', True, 'high'),
            ('none', False, 'highest'),
        ):
            caplog.clear()
            with caplog.at_level(logging.INFO):
                acceleration.set_tf32(word, logging.getLogger('tf32'))
            assert torch.backends.cudnn.allow_tf32 == convolutions
            assert torch.get_float32_matmul_precision() == products
            assert f"tf32='{word}'" in caplog.text and 'convolutions in ' in caplog.text
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
    with pytest.raises(launch.UsageError, match="tf32 must be one of 'convolutions', 'all', 'none', not 'some'"):
        acceleration.apply_acceleration_keys(Config(dict(tf32='some')))


@pytest.fixture
def dynamo(monkeypatch):
    """Dynamo as in a fresh process."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


def losses(model: nn.Module, steps: int = 2) -> list[float]:
    """Loss and gradients' size of steps without an update, from the workers' batch."""
    told = []
    for seed in range(steps):
        torch.manual_seed(seed)
        total, _ = model.parse_losses(model(**model.data_preprocessor(tiny.batch(seed=seed), True), mode='loss'))
        total.backward()
        told += [float(total.detach()), *(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)]
    return told


EVERY = [
    method if method in ('MLLC', 'UniMatch') else pytest.param(method, marks=pytest.mark.slow)
    for method in tiny.METHODS
]


@pytest.mark.parametrize('method', EVERY)
def test_compiled_networks_compute_what_eager_ones_do(method, dynamo):
    """Traced by Dynamo and run eagerly: what a compiler makes of the graphs is tested once, below."""
    expected = losses(model_of(method, [tiny.MPMC]))
    model, graphs = model_of(method, [tiny.MPMC]), []
    acceleration.compile_networks(model, dict(backend=lambda graph, inputs: graphs.append(graph) or graph))
    assert losses(model) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert graphs
    assert model.state_dict().keys() == model_of(method, [tiny.MPMC]).state_dict().keys()


def test_the_runner_compiles_networks_and_mmengine_no_steps(drawn, tmp_path, dynamo):
    cfg = tiny_run.config('MeanTeacher', drawn, tmp_path, epochs=1)
    graphs = []
    cfg.compile = dict(backend='eager')
    cfg.train_cfg.val_begin = 2
    runner = launch.build_runner(cfg)
    assert runner.cfg.compile is None
    assert all('backend' in Config.fromfile(file).compile for file in tmp_path.glob('*.py'))
    for name in ('student', 'teacher'):
        for part in ('backbone', 'decode_head'):
            network = getattr(getattr(runner.model, name).segmentor, part)
            assert network._compiled_call_impl is not None
            network.compile(backend=lambda graph, inputs: graphs.append(graph) or graph)
    runner.train()
    assert len(graphs) >= 4 and any(tmp_path.glob('*.py'))


@pytest.mark.slow
def test_a_run_with_compile_trains(drawn, tmp_path, monkeypatch, dynamo):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    cfg, noted = tiny_run.config('MeanTeacher', drawn, tmp_path / 'run', epochs=1), tiny_run.Losses()
    acceleration.apply_acceleration_arguments(cfg, argparse.Namespace(compile=True, amp='bf16'))
    cfg.train_cfg.val_begin = 2
    runner = launch.build_runner(cfg)
    runner.register_hook(noted)
    runner.train()
    assert len(noted.steps) == 2 and tiny_run.are_finite(noted.steps)


@pytest.mark.parametrize('method', tiny.METHODS)
def test_channels_last_changes_where_numbers_lie_and_not_which(method):
    expected = losses(model_of(method, [tiny.MPMC]), steps=1)
    torch.manual_seed(0)
    model = model_of(method, [tiny.MPMC]).to('cpu')
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    assert losses(model, steps=1) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_channels_last_can_be_set_aside():
    model = tiny.build('FixMatch')
    model.channels_last = False
    weight = model.to('cpu').student.segmentor.backbone.layer1[0].conv1.weight
    assert weight.is_contiguous() and not weight.is_contiguous(memory_format=torch.channels_last)


def test_a_cpu_has_bfloat16():
    assert optim_wrapper.has_bfloat16('cpu')


TOUCHING = """
import resource
import numpy as np
from mmsemi.apis.acceleration import keep_freed_memory

print(keep_freed_memory())
for step in range(11):
    np.ones(1 << 23)
    if step == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(os, 'confstr') or 'glibc' not in os.confstr('CS_GNU_LIBC_VERSION'), reason='no glibc')
@pytest.mark.parametrize('told', [{}, {'MALLOC_MMAP_MAX_': '65536'}])
def test_a_step_on_a_cpu_has_the_memory_of_the_one_before(told):
    env = {name: value for name, value in os.environ.items() if name not in acceleration._MALLOC_VARIABLES}
    env |= {'PYTHONPATH': str(tiny_run.ROOT), **told}
    said = subprocess.run([sys.executable, '-c', TOUCHING], env=env, capture_output=True, text=True, check=True).stdout
    kept, faults = said.split()[-2:]
    assert kept == str(not told)
    assert told or int(faults) < 10, 'ten times 64 MiB are 160 thousand pages, or 320 huge ones'


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_run_keeps_freed_memory_where_its_tensors_are_on_a_cpu(device, machine, monkeypatch):
    machine(device)
    called = []
    monkeypatch.setattr(acceleration, 'keep_freed_memory', lambda: called.append('kept'))
    logger = logging.getLogger('kept')
    acceleration.accelerate(argparse.Namespace(cfg=Config({}), model=nn.Identity(), logger=logger))
    assert called == ['kept'] * (device == 'cpu')
