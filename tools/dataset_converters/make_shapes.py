"""Draw the embedded data set: small scenes of textured things, in PASCAL VOC's folder layout.

    python tools/dataset_converters/make_shapes.py data/shapes

Seven kinds of things (leaf, stone, flower, mushroom, shell, beetle, butterfly) of unequal frequency lie on varying
grounds, occlude each other and are mixed with clutter that belongs to the background. What a thing is follows from its
outline and its texture; its color helps only a little, because hues overlap between the classes and every image has its
own light, white balance, contrast, blur, noise and JPEG quality. A few labeled images do not show that variety; many
unlabeled ones do.

The same seed gives the same bytes, and image i is the same however many images are asked for.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image
from shapes_painters import KINDS, PALETTE, Array, Painter, blend, ground, mushroom, noise, scrap, twig

VERSION = 2  # raise it whenever the drawing changes, so that an older folder is drawn anew
SPLITS = ('train', 'val')
IGNORE = 255
SUPERSAMPLING = 1.5
VOID_COLOR = (224, 224, 192)


# --- one image


class Scene:
    """A picture under construction: colors, the class and the number of the thing that each pixel shows."""

    def __init__(self, rng: Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.image = ground(rng, (size, size))
        self.label = np.zeros((size, size), np.uint8)
        self.thing = np.zeros((size, size), np.uint8)
        self.light = rng.uniform(0, 2 * np.pi)
        self.gloom = rng.uniform(0.15, 0.55)

    def put(self, paint: Painter, label: int, radius: float, turn: float) -> None:
        """Place one thing of ``radius`` (a share of the picture's side) at a random spot, with shading and shadow."""
        rng, size = self.rng, self.size
        radius *= size
        center = (rng.uniform(0.03, 0.97, 2) * size).tolist()
        stretch, shear = rng.uniform(0.8, 1.2), rng.uniform(-0.2, 0.2)
        top, left = (max(int(c - 1.4 * radius), 0) for c in center)
        bottom, right = (min(int(c + 1.4 * radius) + 1, size) for c in center)
        y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
        x, y = (x - center[1]) / radius, (y - center[0]) / radius
        u = (x * math.cos(turn) + y * math.sin(turn)) * stretch
        v = (y * math.cos(turn) - x * math.sin(turn)) / stretch + shear * u
        inside, color = (field.astype(np.float32) for field in paint(rng, u, v))
        alpha = np.clip(inside * radius / 1.5 + 0.5, 0, 1)
        slope = x * math.cos(self.light) + y * math.sin(self.light)
        color = color * (1 - 0.3 * slope - 0.25 * (1 - np.clip(inside * 5, 0, 1)))[..., None]

        drop = max(2.0, 0.09 * radius)
        move = np.array([[1, 0, drop * math.cos(self.light)], [0, 1, drop * math.sin(self.light)]], np.float32)
        shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, move, alpha.shape[::-1]), (0, 0), drop * 0.6)
        window = slice(top, bottom), slice(left, right)
        under = self.image[window] * (1 - self.gloom * shadow)[..., None]
        self.image[window] = blend(under, color, alpha)
        self.label[window][alpha > 0.5] = label
        self.thing[window][alpha > 0.5] = self.thing.max() + 1 if label else 0

    def clutter(self, count: int, strokes: float) -> None:
        for _ in range(count):
            paint, low, high = (twig, 0.12, 0.35) if self.rng.random() < strokes else (scrap, 0.03, 0.14)
            self.put(paint, 0, self.rng.uniform(low, high), self.rng.uniform(0, 2 * np.pi))


def things(rng: Generator) -> list[int]:
    """Class ids of the things of one image, in the order in which they are laid down."""
    wanted = [i for i, kind in enumerate(KINDS, 1) if rng.random() < kind.frequency]
    wanted = wanted or [int(rng.integers(1, 4))]
    wanted = [i for i in wanted for _ in range(int(rng.integers(1, KINDS[i - 1].most + 1)))]
    return [int(i) for i in rng.permutation(wanted)]


def develop(rng: Generator, image: Array) -> Array:
    """What light and camera do to the scene: dapples, white balance, hue, exposure, blur and noise; uint8 RGB."""
    size = image.shape[0]
    dapple = 1 + rng.uniform(0, 0.3) * np.clip(noise(rng, (size, size), rng.uniform(1, 4)), -1.5, 1.5)
    image = image * dapple[..., None] * np.exp(rng.normal(0, 0.07, 3)).astype(np.float32)
    turn = rng.normal(0, 0.15)  # a rotation of the colors around the gray axis, in radians
    gray_axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = math.cos(turn) * np.eye(3) + math.sin(turn) * cross + (1 - math.cos(turn)) * gray_axis
    saturation = rng.uniform(0.6, 1.25)
    image = cv2.transform(image, saturation * rotation + (1 - saturation) * gray_axis)
    mean = image.mean()
    image = (image - mean) * rng.uniform(0.7, 1.3) + mean * np.exp(rng.normal(0, 0.15))
    image = np.clip(image, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.15)))
    blur = rng.uniform(0, 0.8)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = image + rng.uniform(0, 0.035) * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw(rng: Generator, size: int) -> tuple[Array, Array]:
    """One image, (size, size, 3) uint8 RGB, and its label map, (size, size) uint8 with 255 on the borders of things."""
    scene = Scene(rng, round(size * SUPERSAMPLING))
    scene.clutter(int(rng.integers(2, 7)), strokes=0.3)
    for label in things(rng):
        turn = rng.normal(0, 0.5) if KINDS[label - 1].paint is mushroom else rng.uniform(0, 2 * np.pi)
        scene.put(KINDS[label - 1].paint, label, rng.uniform(0.2, 0.4), turn)
        if rng.random() < 0.25:
            scene.clutter(1, strokes=0.6)
    image = cv2.resize(scene.image, (size, size), interpolation=cv2.INTER_AREA)
    label, thing = (
        cv2.resize(m, (size, size), interpolation=cv2.INTER_NEAREST_EXACT) for m in (scene.label, scene.thing)
    )
    around = np.ones((3, 3), np.uint8)
    label = np.where(cv2.dilate(thing, around) != cv2.erode(thing, around), IGNORE, label)
    return develop(rng, image), label.astype(np.uint8)


# --- the files


def image_rng(seed: int, split: str, index: int) -> Generator:
    """The generator of one image: what ``SeedSequence(seed).spawn`` would hand out, without counting up to it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)))


def write_one(out: Path, seed: int, size: int, item: tuple[str, int]) -> None:
    rng = image_rng(seed, *item)
    image, label = draw(rng, size)
    name = image_name(*item)
    quality = int(rng.integers(40, 96))
    Image.fromarray(image).save(out / 'JPEGImages' / f'{name}.jpg', quality=quality)
    mask = Image.fromarray(label)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(PALETTE)], colors[IGNORE] = PALETTE, VOID_COLOR
    mask.putpalette(colors.tobytes())
    mask.save(out / 'SegmentationClass' / f'{name}.png')


def image_name(split: str, index: int) -> str:
    return f'{split}_{index:05d}'


def remove_images(out: Path, stamp: dict) -> None:
    """Delete the images that ``stamp`` tells of: a folder of unlabeled images must not hold those of an older run."""
    for split in SPLITS:
        for index in range(stamp[split]):
            name = image_name(split, index)
            (out / 'JPEGImages' / f'{name}.jpg').unlink(missing_ok=True)
            (out / 'SegmentationClass' / f'{name}.png').unlink(missing_ok=True)


def make_shapes(out: Path, seed: int = 0, train: int = 600, val: int = 100, size: int = 96, workers: int = 1) -> bool:
    """Write the data set below ``out``; returns False where the same data is there already.

    More than one worker are processes forked from this one: only for a process without threads of its own.
    """
    counts = dict(zip(SPLITS, (train, val), strict=True))
    stamp = dict(version=VERSION, seed=seed, size=size, **counts)
    stamp_file = out / 'shapes.json'
    items = [(split, index) for split in SPLITS for index in range(counts[split])]
    if stamp_file.is_file():
        before = json.loads(stamp_file.read_text())
        if before == stamp:
            return False
        remove_images(out, before)

    stamp_file.unlink(missing_ok=True)  # it comes back last, so that a broken-off run is never taken for a finished one
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (out / folder).mkdir(parents=True, exist_ok=True)
    job = partial(write_one, out, seed, size)
    if workers == 1:
        for item in items:
            job(item)
    else:
        with Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            pool.map(job, items, chunksize=8)
    for split, count in counts.items():
        names = ''.join(f'{image_name(split, index)}\n' for index in range(count))
        (out / 'ImageSets/Segmentation' / f'{split}.txt').write_text(names)
    stamp_file.write_text(json.dumps(stamp) + '\n')
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder to write, data/shapes in the configs')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--train', type=int, default=600, help='number of training images')
    parser.add_argument('--val', type=int, default=100, help='number of validation images')
    parser.add_argument('--size', type=int, default=96, help='side of the square images in pixels')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes')
    args = parser.parse_args()
    written = make_shapes(args.out, args.seed, args.train, args.val, args.size, workers=args.workers)
    verb, side = 'wrote' if written else 'kept the', args.size
    print(f'{verb} {args.train} training and {args.val} validation images of {side} x {side} pixels in {args.out}')


if __name__ == '__main__':
    main()
