"""Two ranks do what one would, and every config of the embedded data set trains and resumes on two."""

from __future__ import annotations

import copy
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmsemi import engine
from mmsemi.apis.launch import prepare_config
from mmsemi.models import OhemCrossEntropyLoss
from tests import tiny, tiny_run
from tests.ranks import on_two_ranks

GROUPS = dict(type='GN', num_groups=2)


# What a method's step needs, the hooks that move its state, and the state that this must leave behind.
STATES = {
    'Supervised': ({}, [], 'student'),
    'FixMatch': (dict(threshold=0.3), [], 'student'),
    'MeanTeacher': (dict(threshold=0.3), ['EMATeacherHook'], 'teacher'),
    # No random features: ranks draw their own.
    'UniMatch': (dict(threshold=0.3, feature_dropout=0.0), [], 'student'),
    # The same.
    'PrevMatch': (dict(threshold=0.3, feature_dropout=0.0, length=1), [], 'student'),
    # The same.
    'UniMatchV2': (dict(threshold=0.3, dropout=None), ['EMATeacherHook'], 'teacher'),
    'MLLC': (dict(threshold=0.3), ['EMATeacherHook', 'PrototypeHook'], 'prototypes.0.value'),
    # The same.
    'DSSN': (dict(threshold=0.3, class_ratio=0.8, feature_dropout=0.0), ['EMATeacherHook'], 'teacher'),
    'CorrMatch': (
        dict(threshold=0.3, threshold_momentum=0.5, feature_dropout=0.0, sampling='uniform'),
        ['DynamicThresholdHook'],
        'moving_threshold.value',
    ),
    # No labeled boxes: ranks draw their own.
    'AugSeg': (dict(threshold=0.3, label_prob=0.0), ['EMATeacherHook'], 'teacher'),
    # Nothing random: ranks draw their own.
    'AEL': (
        dict(threshold=0.2, copy_paste_prob=0.0, sampling_power=0.0),
        ['EMATeacherHook', 'ConfidenceHook'],
        'confidence.value',
    ),
    # Random anchors, without a say in what is learned.
    'ESL': (dict(threshold=0.3, contrast_weight=1e-30), ['EMATeacherHook', 'PrototypeHook'], 'queues.value'),
    # The same, and every key is enqueued, since those of a draw differ.
    'U2PL': (
        dict(contrast_weight=1e-30, keys_per_step=600, queue_length=600, background_length=700),
        ['EMATeacherHook', 'PrototypeHook'],
        'queues.value',
    ),
}


CASES = [(method, mpmc) for method in STATES for mpmc in (False, True)]
in_every_case = pytest.mark.parametrize(
    ('method', 'mpmc'), CASES, ids=[f'{method}{" with MPMC" * mpmc}' for method, mpmc in CASES]
)


def step_through(rank: int, world: int, folder: str) -> None:
    """Take every method, alone and with MPMC, through steps on this rank's part of the batches."""
    init_default_scope('mmsemi')
    for method, mpmc in CASES:
        plugins = [tiny.MPMC] if mpmc else []
        torch.save(three_steps(rank, world, method, plugins), f'{folder}/{method}-{mpmc}-{world}-{rank}.pt')


# Methods that run the student in one, in two and in three passes.
RECOMPUTED = ('MLLC', 'CorrMatch', 'UniMatch')


def recompute(rank: int, world: int, folder: str) -> None:
    """Take some methods through the same steps, with blocks that are computed again in the backward pass."""
    init_default_scope('mmsemi')
    for method in RECOMPUTED:
        torch.save(three_steps(rank, world, method, [], with_cp=True), f'{folder}/{method}-recomputed-{rank}.pt')


def three_steps(
    rank: int, world: int, method: str, plugins: list[dict], with_cp: bool = False
) -> tuple[dict, torch.Tensor, float]:
    """The state that three steps leave, the threshold of each, and a number that ranks averaged."""
    arguments, names, _ = STATES[method]
    student = tiny.segmentor(GROUPS)
    student['backbone']['with_cp'] = with_cp
    model = tiny.build(method, norm=GROUPS, plugins=plugins, student=student, **arguments).double().train()
    wrapped = MMDistributedDataParallel(model, device_ids=None) if world > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    hooks = [getattr(engine, name)() for name in names]
    for hook in hooks:
        hook.before_train(SimpleNamespace(model=wrapped, train_dataloader=tiny.labeled_loader()))
    thresholds = []
    for iteration in range(3):
        streams = tiny.streams_for(model, 4, 4, seed=iteration, mixed=False)
        part = slice(rank * 4 // world, (rank + 1) * 4 // world)
        streams.labels[streams.labels == 255] = 0
        streams.labeled, streams.labels = streams.labeled[part].double(), streams.labels[part]
        streams.weak, streams.valid = streams.weak[part].double(), streams.valid[part]
        streams.strong = tuple(view[part].double() for view in streams.strong)
        for mix in streams.mix:
            mix.mask = mix.mask[part]
        losses = wrapped(streams, mode='loss')
        assert all(value.isfinite().all() for value in losses.values())
        thresholds.append(losses.get('unsup.threshold', torch.zeros(())))
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        runner = SimpleNamespace(model=wrapped, iter=iteration, optim_wrapper=SimpleNamespace())
        for hook in hooks:
            hook.after_train_iter(runner, iteration)
    state = copy.deepcopy(model.state_dict())
    # What ranks gathered apart is averaged at the end of an epoch.
    model.epoch.fill_(rank)
    engine.SyncStatisticsHook().after_train_epoch(SimpleNamespace(model=wrapped))
    return state, torch.stack(thresholds), float(model.epoch)


SHARES = (0.01, 0.3, 0.8, 1.0)


def learn_hard_pixels(rank: int, world: int, folder: str) -> None:
    """OHEM's loss and gradient of this rank's part of 6 images, some of which are mostly void, for several shares."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 4, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (6, 8, 8), generator=generator)
    labels[:2, 1:] = 255
    part = slice(rank * 6 // world, (rank + 1) * 6 // world)
    found = []
    for share in SHARES:
        own = logits[part].clone().requires_grad_()
        loss = OhemCrossEntropyLoss(0.3, share)(own, labels[part])
        loss.backward()
        found.append((loss.detach(), own.grad))
    torch.save(found, f'{folder}/ohem-{world}-{rank}.pt')


def run_through(rank: int, folder: str, drawn: str) -> None:
    """Run the config of every method, alone and with MPMC, for two epochs of a step; with MPMC, which keeps all the
    state that the method has alone, the second epoch once more from the first one's checkpoint.
    """
    for method, mpmc in CASES:
        work_dir = Path(folder) / f'{method}-{mpmc}'
        straight = tiny_run.config(method, Path(drawn), work_dir / 'straight', mpmc=mpmc)
        runs = [run(straight)]
        if mpmc:
            resumed = tiny_run.config(method, Path(drawn), work_dir / 'resumed', mpmc=True)
            resumed.update(resume=True, load_from=str(work_dir / 'straight/epoch_1.pth'))
            runs.append(run(resumed))
        Path(f'{folder}/{method}-{mpmc}-{rank}.json').write_text(json.dumps(runs))
        torch.distributed.barrier()
        if rank == 0:
            shutil.rmtree(work_dir)


def run(cfg: Config) -> dict:
    """Train, and tell the steps' losses and digests of what the run left."""
    prepare_config(cfg, 'pytorch')
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs + 1  # what is validated here has other tests
    runner, losses = Runner.from_cfg(cfg), tiny_run.Losses()
    runner.register_hook(losses)
    runner.train()
    moments = runner.optim_wrapper.optimizer.state_dict()['state']
    state = {f'{name} of parameter {i}': value for i, values in moments.items() for name, value in values.items()}
    state.update(runner.model.module.state_dict())
    return dict(
        losses=losses.steps, state={name: sha256(value.numpy().tobytes()).hexdigest() for name, value in state.items()}
    )


def rank_of_two(rank: int, folder: str, drawn: str) -> None:
    """All that two ranks do here, in one pair of processes: each takes seconds to start."""
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine reads it, as torchrun sets it
    step_through(rank, 2, folder)
    learn_hard_pixels(rank, 2, folder)
    recompute(rank, 2, folder)
    with pytest.MonkeyPatch.context() as patch:
        tiny_run.shorten_runs(patch)
        run_through(rank, folder, drawn)


@pytest.fixture(scope='module')
def left(tmp_path_factory, drawn) -> Path:
    """Folder of what one process and two ranks left: made once, whichever worker of the test-suite needs it first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'two_ranks'
    with FileLock(f'{folder}.lock'):
        if not (folder / 'complete').exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            tiny_run.draw(drawn)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv('CUDA_VISIBLE_DEVICES', '')
                on_two_ranks(rank_of_two, folder, str(drawn))
            step_through(0, 1, str(folder))
            learn_hard_pixels(0, 1, str(folder))
            (folder / 'complete').touch()
    return folder


def differing(state: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of what is not in both, or not the same."""
    return [name for name in {**state, **other} if state.get(name) != other.get(name)]


@in_every_case
def test_every_config_trains_on_two_ranks_which_end_alike(method, mpmc, left):
    runs = [json.loads((left / f'{method}-{mpmc}-{rank}.json').read_text())[0] for rank in (0, 1)]
    for run in runs:
        assert len(run['losses']) == 2 and tiny_run.are_finite(run['losses'])
    assert runs[0]['losses'] != runs[1]['losses'], 'each has images of its own'
    assert not differing(*(run['state'] for run in runs))


@pytest.mark.parametrize('method', STATES)
def test_a_run_of_two_ranks_resumes_bit_for_bit(method, left):
    for rank in (0, 1):
        straight, resumed = json.loads((left / f'{method}-True-{rank}.json').read_text())
        assert resumed['losses'] == straight['losses'][1:]
        assert not differing(straight['state'], resumed['state'])


@in_every_case
def test_two_ranks_hold_the_state_and_thresholds_of_one_process_with_both_batches(method, mpmc, left):
    one, thresholds, _ = torch.load(left / f'{method}-{mpmc}-1-0.pt')
    start = tiny.build(method, norm=GROUPS, plugins=[tiny.MPMC] if mpmc else []).double().state_dict()
    moved = [key for key, value in one.items() if not torch.equal(value, start[key])]
    assert any(key.startswith(STATES[method][2]) for key in moved), 'the steps must move the state'
    assert not mpmc or any('patch_classifier' in key for key in moved)
    assert method not in ('MLLC', 'CorrMatch', 'U2PL') or len(thresholds.unique()) > 1
    for rank in (0, 1):
        state, theirs, statistics = torch.load(left / f'{method}-{mpmc}-2-{rank}.pt')
        assert statistics == 0.5
        assert torch.allclose(theirs, thresholds, atol=1e-10)
        for key, value in one.items():
            if value.is_floating_point():
                assert torch.allclose(value, state[key], atol=1e-8), key
            else:
                assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('method', RECOMPUTED)
def test_two_ranks_may_compute_blocks_again_in_the_backward_pass(method, left):
    for rank in (0, 1):
        kept, again = (torch.load(left / f'{method}-{kind}-{rank}.pt')[0] for kind in ('False-2', 'recomputed'))
        assert all(torch.allclose(value, again[key], atol=1e-10) for key, value in kept.items())


@pytest.mark.parametrize('share', range(len(SHARES)), ids=map(str, SHARES))
def test_the_hard_pixels_of_two_ranks_are_those_of_one_process_with_all_images(share, left):
    loss, gradient = torch.load(left / 'ohem-1-0.pt')[share]
    losses, gradients = zip(*(torch.load(left / f'ohem-2-{rank}.pt')[share] for rank in (0, 1)), strict=True)
    # Gradients are averaged over ranks.
    assert torch.allclose(sum(losses) / 2, loss, atol=1e-10)
    assert torch.allclose(torch.cat(gradients) / 2, gradient, atol=1e-10)


def test_every_method_steps_on_two_ranks():
    assert STATES.keys() == tiny.METHODS.keys() == tiny_run.METHOD_FILES.keys()
