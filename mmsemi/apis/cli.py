"""The console command ``mmsemi``: one word for each thing that a user does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from .comparing import compare as compare_configs, compare_parser
from .launch import add_arguments, build_runner, load_config, quiet, run
from .testing import test_config, test_parser
from .training import parse_training, run_training

_COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {}


def command(name: str, summary: str) -> Callable:
    """Register what ``mmsemi NAME`` does; it gets the arguments behind the name."""

    def register(function: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
        _COMMANDS[name] = (summary, function)
        return function

    return register


@command('init', 'look at folders of images and masks, write a config that trains')
def init(arguments: list[str]) -> None:
    """Read the command line and write the project."""
    with quiet():
        from .project import init_project, known

    parser = argparse.ArgumentParser('mmsemi init', description='Write a project for your own images')
    parser.add_argument('--images', required=True, help='folder of images; those without a mask are unlabeled')
    parser.add_argument('--masks', required=True, help='folder of their masks, of the same names')
    parser.add_argument('--unlabeled', help='folder of more images without masks')
    parser.add_argument('--val-images', help='folder of images for validation')
    parser.add_argument('--val-masks', help='folder of their masks')
    parser.add_argument('--val', type=float, default=0.2, help='else the share of the labeled images kept for it: 0.2')
    parser.add_argument('--classes', metavar='FILE|a,b,c', help='names of the classes; a file has one a line')
    parser.add_argument('--method', help=f'default: mllc; there are {", ".join(known("methods"))}')
    parser.add_argument('--network', help=f'default: by the machine; there are {", ".join(known("models"))}')
    parser.add_argument('--gpu-memory', type=float, metavar='GIB', help="default: this machine's")
    parser.add_argument('--out', required=True, help='folder to write')
    init_project(**vars(parser.parse_args(arguments)))


@command('check', 'look at the data of a config and try what a run will do')
def check(arguments: list[str]) -> None:
    """Read the command line and look."""
    parser = argparse.ArgumentParser('mmsemi check', description='Look at the data of a config, and rehearse its run')
    parser.add_argument('config', help='config file')
    add_arguments(parser)
    args = parser.parse_args(arguments)
    with quiet():
        from .checking import run_check
    run_check(args)


@command('train', 'train')
def train(arguments: list[str]) -> None:
    """Read the command line and train."""
    run_training(parse_training(arguments, 'mmsemi train'))


@command('test', 'evaluate a checkpoint')
def test(arguments: list[str]) -> None:
    """Read the command line and evaluate."""
    build_runner(test_config(test_parser('mmsemi test').parse_args(arguments))).test()


@command('compare', 'train configs with several seeds and compare them')
def compare(arguments: list[str]) -> None:
    """Read the command line, train and compare."""
    compare_configs(**vars(compare_parser('mmsemi compare').parse_args(arguments)))


@command('predict', 'write masks for images that have none')
def predict(arguments: list[str]) -> None:
    """Read the command line and predict."""
    parser = argparse.ArgumentParser('mmsemi predict', description='Write masks for images')
    parser.add_argument('checkpoint', help='of mmsemi, or an exported one')
    parser.add_argument('images', help='a folder, a list file, an image or a video')
    parser.add_argument('out', help='folder to write: masks/, images.csv')
    parser.add_argument('--overlay', action='store_true', dest='overlays', help='masks painted over the images, too')
    parser.add_argument('--confidence', action='store_true', help="the probability of each pixel's class, too")
    parser.add_argument('--threshold', type=float, help='pixels that are less probable get 255, for annotators')
    parser.add_argument('--branch', choices=['student', 'teacher'], help='default: the teacher, if there is one')
    parser.add_argument('--device', help='default: the GPU, if there is one')
    args = parser.parse_args(arguments)
    with quiet():
        from .predict import predict as predict_images
    predict_images(**vars(args))


@command('browse', 'draw what a training step sees')
def browse(arguments: list[str]) -> None:
    """Read the command line and draw a batch."""
    parser = argparse.ArgumentParser('mmsemi browse', description='Draw one batch as the method of a config sees it')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='whose network labels and predicts; default: an untrained one')
    parser.add_argument('--out', default='browse.png', help='PNG file to write')
    parser.add_argument('--images', type=int, default=4, help='unlabeled images to draw at most: 4')
    parser.add_argument('--seed', type=int, default=0, help='draws another batch and other views')
    add_arguments(parser)
    args = parser.parse_args(arguments)
    with quiet():
        from .browse import browse as draw_batch
    draw_batch(load_config(args), args.checkpoint, args.out, args.images, args.seed)


@command('plot', 'draw the curves of runs, or features by class')
def plot(arguments: list[str]) -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser('mmsemi plot', description='Draw the curves of runs into one picture')
    parser.add_argument('runs', nargs='*', help='work folders of runs')
    parser.add_argument('--features', metavar='CHECKPOINT', help='draw what its network makes of pixels, by class')
    parser.add_argument('--out', default='plot.png', help='PNG file to write')
    parser.add_argument('--branch', choices=['student', 'teacher'], help='with --features; default: the teacher')
    args = parser.parse_args(arguments)
    with quiet():
        from .plot import plot as draw
    draw(args.runs, args.features, args.out, args.branch)


@command('export', 'take the network out of a checkpoint, for plain mmseg')
def export(arguments: list[str]) -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser('mmsemi export', description='Export the segmentor of a checkpoint to plain mmseg')
    parser.add_argument('checkpoint', help='checkpoint of mmsemi')
    parser.add_argument('out', help='where to write, with or without .pth; the config lies beside it')
    parser.add_argument('--branch', choices=['student', 'teacher'], help='default: the teacher, if there is one')
    parser.add_argument('--onnx', action='store_true', help='also write an ONNX file, held against PyTorch')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help="of the ONNX file's images, where the network does not leave them free; default: the training crop",
    )
    args = parser.parse_args(arguments)
    with quiet():
        from .export import export as export_network
    export_network(args.checkpoint, args.out, args.branch, args.onnx, args.size)


def main() -> None:
    """Run the command that the first argument names."""
    summaries = ''.join(f'  {name:<9}{summary}\n' for name, (summary, _) in _COMMANDS.items())
    usage = f'usage: mmsemi COMMAND ...\n\n{summaries}\nmmsemi COMMAND --help tells the arguments of a command.'
    name, *arguments = sys.argv[1:] or ['--help']
    if name in ('-h', '--help'):
        print(usage)
        return
    if name not in _COMMANDS:
        print(f'error: there is no command {name}\n\n{usage}', file=sys.stderr)
        sys.exit(2)
    run(lambda: _COMMANDS[name][1](arguments))


if __name__ == '__main__':
    main()
