"""A small project of a user, and what a command says to it, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from PIL import Image

from mmsemi.apis import cli, launch
from mmsemi.registry import HOOKS
from tests.data import scene

ROOT = Path(__file__).resolve().parents[2]
BASES = ROOT / 'configs' / '_base_'
CLASSES = 3
_number = itertools.count()


class ReachedError(Exception):
    """A run got to where training begins."""


@HOOKS.register_module(force=True)
class EndBeforeTraining(Hook):
    """Ends a run that nothing has ended."""

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        raise ReachedError


class Project:
    """Folders of images and masks, and a config.

    Args:
        root (Path): Where to write.
        capture (pytest.CaptureFixture): What reads the console.
    """

    def __init__(self, root: Path, capture: pytest.CaptureFixture) -> None:
        self.root = root
        self._capture = capture
        rng = np.random.default_rng(0)
        for part, count, masked in (('', 3, True), ('unlabeled', 3, False), ('val', 2, True)):
            for number in range(count):
                image, mask = scene(rng, (40, 36), CLASSES)
                mask[:CLASSES] = np.arange(CLASSES)[:, None]  # every mask shows every class
                folder = root / part if masked else root
                self.save(folder / ('images' if masked else part) / f'{number}.png', image)
                if masked:
                    self.save(folder / 'masks' / f'{number}.png', mask)
        self.config = root / 'config.py'
        self.write()

    @staticmethod
    def save(path: Path, array: np.ndarray, **options) -> None:
        """Write an image."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **options)

    def write(self, more: str = '', method: str = 'fixmatch', network: str = 'deeplabv3plus_r18w16') -> None:
        """Write the config, ``more`` behind what it needs."""
        self.config.write_text(
            f'_base_ = ["{BASES}/models/{network}.py", "{BASES}/datasets/folder.py", '
            f'"{BASES}/schedules/adamw_small.py", "{BASES}/methods/{method}.py"]\n'
            f'data_root = {str(self.root)!r}\n'
            "classes = ('sky', 'road', 'tree')\n"
            "img_suffix = '.png'\n"
            'crop_size = (32, 32)\n'
            'train_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=4)\n'
            'val_dataloader = dict(num_workers=0, persistent_workers=False)\n'
            'train_cfg = dict(max_epochs=1, val_interval=1)\n'
            f'work_dir = {str(self.root / "work")!r}\n' + more,
            encoding='utf-8',
        )

    def change_mask(self, change: Callable[[np.ndarray], np.ndarray], part: str = '', only: int | None = None) -> None:
        """Change what the masks of a part hold, or one of them."""
        for path in sorted((self.root / part / 'masks').glob('*.png')):
            if only is None or path.stem == str(only):
                self.save(path, change(np.array(Image.open(path))))

    def run(self, command: str, *arguments: str) -> tuple[int | None, str]:
        """Exit status of ``mmsemi COMMAND ...``, None if training began, and all that it printed."""
        self._capture.readouterr()
        status: int | None = 0
        try:
            launch.run(lambda: cli._COMMANDS[command][1](list(arguments)))
        except SystemExit as end:
            status = end.code
        except ReachedError:
            status = None
        finally:
            for logger in MMLogger._instance_dict.values():
                for handler in logger.handlers:
                    handler.close()
            MMLogger._instance_dict.clear()
        out, err = self._capture.readouterr()
        return status, out + err

    def train(self, *options: str, flags: tuple[str, ...] = ()) -> tuple[int | None, str]:
        """What ``mmsemi train`` says to the config with these options."""
        fixed = [
            'custom_hooks=[dict(type="EndBeforeTraining")]',
            "visualizer.vis_backends=[{'type': 'LocalVisBackend'}]",
            f'visualizer.name=v{(number := next(_number))}',
            f'experiment_name=e{number}',
        ]
        return self.run('train', str(self.config), *flags, '--cfg-options', *fixed, *options)


def refused(result: tuple[int | None, str], *says: str) -> None:
    """Assert that a command ended with status 2 and one sentence an error, in which ``says`` stand."""
    status, text = result
    errors = [line for line in text.splitlines() if line.startswith(('error: ', 'mmsemi '))]
    assert status == 2 and errors, f'status {status}: {text[-1500:]}'
    assert 'Traceback (most recent call last)' not in text
    said = ' '.join(errors)
    for word in says:
        assert word in said, f'{word!r} is not in {said!r}'


def warned(result: tuple[int | None, str], *says: str) -> None:
    """Assert that training began, and that a warning has the words."""
    status, text = result
    assert status is None, f'status {status}: {text[-1500:]}'
    warnings = ' '.join(
        line for line in text.splitlines() if 'WARNING' in line or line.startswith(('note:', 'warning:'))
    )
    for word in says:
        assert word in warnings, f'{word!r} is not in {warnings!r}'
