"""The painters of the embedded data set: seven kinds of things, the grounds they lie on, and clutter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

Array = np.ndarray
# A painter gets local coordinates (u, v), about [-1, 1]; it returns how far inside each pixel is, and its color.
Painter = Callable[[Generator, Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Kind:
    """One class: how it is drawn, in which share of the images, and at most how often in one of them."""

    name: str
    color: tuple[int, int, int]
    frequency: float
    most: int
    paint: Painter


# --- small tools of the painters


def noise(rng: Generator, shape: tuple[int, int], cells: float, octaves: int = 1) -> Array:
    """Smooth noise with ``cells`` bumps along the longer side, and finer octaves of half the height."""
    total, height = np.zeros(shape, np.float32), 1.0
    for octave in range(octaves):
        pitch = max(1, round(max(shape) / (cells * 2**octave)))
        grid = rng.standard_normal([side // pitch + 2 for side in shape], dtype=np.float32)
        grid = cv2.resize(grid, None, fx=pitch, fy=pitch, interpolation=cv2.INTER_CUBIC)
        top, left = rng.integers(0, pitch, 2)
        total += height * grid[top : top + shape[0], left : left + shape[1]]
        height /= 2
    return total


def hsv(hue: float, saturation: float, value: float) -> Array:
    """An RGB color in [0, 1]; the hue is a turn, so any real number is one."""
    sector = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    color = value - value * np.clip(saturation, 0, 1) * np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return color.astype(np.float32)


def pick(
    rng: Generator, hues: tuple[float, ...], spread: float, saturation: tuple[float, float], value: tuple[float, float]
) -> Array:
    return hsv(rng.choice(hues) + rng.normal(0, spread), rng.uniform(*saturation), rng.uniform(*value))


def blend(under: Array, over: Array, amount: Array) -> Array:
    return under + (over - under) * amount[..., None].astype(np.float32)


def step(x: Array, softness: float) -> Array:
    """0 for x well below zero, 1 well above, and a ramp of the given width between, so that textures do not alias."""
    return np.clip(x / softness + 0.5, 0, 1)


def spots(rng: Generator, u: Array, v: Array, count: int, reach: float, radius: tuple[float, float]) -> Array:
    """Round spots at random places within ``reach``; 1 inside a spot."""
    cover = np.zeros_like(u)
    angle, distance = rng.uniform(0, 2 * np.pi, count), reach * np.sqrt(rng.uniform(0, 1, count))
    for x, y, r in zip(distance * np.cos(angle), distance * np.sin(angle), rng.uniform(*radius, count), strict=True):
        cover = np.maximum(cover, step(r - np.hypot(u - x, v - y), 0.08))
    return cover


def polar(u: Array, v: Array) -> tuple[Array, Array]:
    return np.hypot(u, v), np.arctan2(v, u)


# --- the seven kinds


def leaf(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """A pointed blade with a midrib and slanted side veins."""
    width, skew, teeth = rng.uniform(0.32, 0.6), rng.uniform(-0.35, 0.35), rng.uniform(0, 0.05)
    along = np.clip(u, -1, 1)
    blade = width * (1 - along**2) * (1 + skew * along) + teeth * np.sin(rng.integers(9, 16) * np.pi * u) * (
        1 - along**2
    )
    stem = np.minimum(0.05 - np.abs(v - 0.1 * (u - 1)), np.minimum(u - 0.8, 1.3 - u))
    veins = np.cos(2 * np.pi * rng.uniform(2.2, 3.6) * (u + rng.uniform(0.6, 1.1) * np.abs(v)) + rng.uniform(0, 6))
    veins = np.maximum(step(veins - 0.62, 0.5), step(0.045 - np.abs(v), 0.05))
    base = pick(rng, (0.3, 0.27, 0.33, 0.22, 0.13, 0.06), 0.02, (0.5, 0.9), (0.4, 0.8))
    other = np.clip(base * rng.choice([0.55, 1.6]) + rng.uniform(-0.03, 0.1), 0, 1)
    color = blend(base * (1 + 0.1 * noise(rng, u.shape, 4)[..., None]), other, veins * rng.uniform(0.5, 0.95))
    return np.maximum(np.where(np.abs(u) < 1, blade - np.abs(v), -np.abs(u)), stem), color


def stone(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """A rounded lump, speckled, sometimes crossed by a pale band."""
    r, angle = polar(u, v / rng.uniform(0.6, 0.95))
    outline = 0.88 + sum(rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4, 5))
    base = pick(rng, (0.08, 0.6, 0.05, 0.6), 0.04, (0.03, 0.22), (0.45, 0.8))
    grain = noise(rng, u.shape, rng.uniform(16, 26), 2)
    speckle = rng.uniform(0.12, 0.28) * np.clip(grain, -1.6, 1.6) + 0.08 * noise(rng, u.shape, 3)
    color = base * (1 + speckle[..., None])
    if rng.random() < 0.4:
        tilt = rng.uniform(0, np.pi)
        band = np.abs(u * math.cos(tilt) + v * math.sin(tilt) - rng.uniform(-0.4, 0.4) + 0.05 * noise(rng, u.shape, 4))
        color = blend(color, base * 0.4 + 0.55, 0.7 * step(rng.uniform(0.04, 0.14) - band, 0.08))
    return outline - r, color


def flower(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Petals around a dotted disc."""
    petals, depth, sharp = int(rng.integers(5, 10)), rng.uniform(0.25, 0.5), rng.uniform(0.5, 1.1)
    r, angle = polar(u, v)
    outline = 1 - depth + depth * np.abs(np.cos(petals * angle / 2)) ** sharp
    base = pick(rng, (0.92, 0.88, 0.85, 0.8, 0.13, 0.62), 0.02, (0.3, 0.8), (0.7, 1.0))
    inner = np.clip(base * rng.uniform(0.45, 1.5), 0, 1)
    color = blend(inner + np.zeros((*u.shape, 3), np.float32), base, np.clip(r * 1.5 - 0.3, 0, 1))
    seam = step(0.12 * r + 0.02 - r * np.abs(np.cos(petals * angle / 2)) / petals * 2, 0.12)
    streaks = 0.5 + 0.5 * np.cos(petals * int(rng.integers(3, 5)) * angle)
    color = color * (1 - 0.45 * seam - rng.uniform(0.05, 0.25) * streaks * step(0.85 - r, 0.5))[..., None]
    size = rng.uniform(0.2, 0.34)
    dots = step(np.cos(24 * u) * np.cos(24 * v) - 0.1, 0.6)
    disc = blend(
        pick(rng, (0.12, 0.07, 0.3), 0.03, (0.5, 0.95), (0.35, 0.95)) + 0 * color, np.full(3, 0.15), 0.6 * dots
    )
    return outline - r, blend(color, disc, step(size - r, 0.06))


def mushroom(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """A spotted cap over a pale, fibrous stem, seen from the side."""
    brim, tall, thick = rng.uniform(0.0, 0.25), rng.uniform(0.75, 1.05), rng.uniform(0.16, 0.32)
    dome = 1 - np.hypot(u / 0.95, (v - brim) / (tall * 0.9 + brim))
    cap = np.minimum(dome, brim - v + 0.12 * (1 - u**2))
    stem = np.minimum(
        thick * (1 + 0.35 * np.clip(v, 0, 1) ** 2) - np.abs(u + 0.06 * np.sin(3 * v)),
        np.minimum(v - brim + 0.1, 0.95 - v),
    )
    base = pick(rng, (0.0, 0.03, 0.98, 0.06, 0.09), 0.015, (0.55, 0.9), (0.5, 0.9))
    pale = pick(rng, (0.1, 0.14), 0.03, (0.05, 0.25), (0.75, 1.0))
    shaded = base * np.clip(1.05 - 0.35 * (v + 0.4), 0.6, 1.3)[..., None]
    dots = spots(rng, u, v + 0.35, int(rng.integers(6, 13)), 0.9, (0.07, 0.17))
    color = blend(shaded, pale, dots * rng.uniform(0.6, 1.0))
    gills = step(v - brim + 0.05, 0.08) * (0.75 + 0.25 * np.cos(30 * u))
    color = blend(color, pale * 0.8, gills)
    fibres = pale * (0.88 + 0.12 * np.cos(rng.uniform(18, 30) * u + 2 * noise(rng, u.shape, 3)))[..., None]
    return np.maximum(cap, stem), np.where((cap > 0)[..., None], color, fibres * np.clip(0.55 + v, 0.6, 1)[..., None])


def shell(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """A fan whose ribs meet at the hinge, crossed by growth bands."""
    ribs, half = int(rng.integers(7, 12)), rng.uniform(0.85, 1.15)
    r, angle = polar(u + 0.95, v)
    phase = angle / half * ribs * np.pi
    fan = 1.72 + 0.06 * np.cos(phase) - 0.28 * (angle / half) ** 4 - r
    sides = (half - np.abs(angle)) * np.maximum(r, 0.12)
    hinge = np.minimum(0.22 - np.abs(u + 0.85), 0.42 - np.abs(v))
    base = pick(rng, (0.09, 0.11, 0.13, 0.07, 0.95), 0.02, (0.2, 0.55), (0.75, 1.0))
    bands = 0.5 + 0.5 * np.sin(r * rng.uniform(9, 18) + rng.uniform(0, 6) + 0.4 * noise(rng, u.shape, 3))
    color = blend(
        base + np.zeros((*u.shape, 3), np.float32),
        np.clip(base * rng.uniform(0.45, 0.8), 0, 1),
        bands * rng.uniform(0.4, 1),
    )
    color = color * (1 + rng.uniform(0.2, 0.35) * np.cos(phase) * step(r - 0.2, 0.3))[..., None]
    return np.maximum(np.minimum(fan, sides), hinge), color


def beetle(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """A glossy oval with a seam, paired dots, a dark head and six legs."""
    wide = rng.uniform(0.5, 0.68)
    body = 1 - np.hypot((u + 0.12) / 0.82, v / wide)
    head = 0.3 - np.hypot(u - 0.75, v * 0.85)
    side = np.abs(v)
    lean = rng.uniform(0.2, 0.5, 3)
    legs = [
        np.minimum(0.045 - np.abs(u - at - k * (side - wide) * way), 0.95 - side)
        for at, k, way in zip((-0.5, 0.0, 0.4), lean, (-1, -1, 1), strict=True)
    ]
    base = pick(rng, (0.06, 0.08, 0.04, 0.35, 0.0), 0.015, (0.75, 1.0), (0.5, 0.95))
    dark = np.full(3, rng.uniform(0.04, 0.16), np.float32)
    dots = spots(rng, u + 0.15, side - 0.28, int(rng.integers(3, 6)), 0.5, (0.08, 0.16))
    color = blend(
        base + np.zeros((*u.shape, 3), np.float32),
        dark,
        np.maximum(dots * rng.uniform(0.7, 1), step(0.035 - side, 0.04)),
    )
    color = blend(color, np.ones(3, np.float32), 0.6 * step(0.13 - np.hypot(u - 0.05, (v + 0.22) * 1.6), 0.2))
    color = blend(color, dark, np.maximum(step(u - 0.42, 0.06), step(-body, 0.05)))
    return np.maximum(np.maximum(body * wide, head), np.maximum.reduce(legs)), color


def butterfly(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Two pairs of wings, mirrored, with dark rims, veins and an eye on each."""
    side = np.abs(v) / rng.uniform(0.75, 1.0)
    spread = rng.uniform(0.45, 0.75)
    fore_u, hind_u = rng.uniform(0.3, 0.42), rng.uniform(-0.5, -0.38)

    def wing(at: float, out: float, long: float, broad: float, tilt: float) -> Array:
        x, y = u - at, side - out
        return broad * (
            1
            - np.hypot(
                (x * math.cos(tilt) + y * math.sin(tilt)) / broad, (y * math.cos(tilt) - x * math.sin(tilt)) / long
            )
        )

    fore, hind = wing(fore_u, 0.48, 0.58, 0.4, -spread), wing(hind_u, 0.36, 0.46, 0.34, spread * 0.8)
    wings, body = np.maximum(fore, hind), 0.1 - np.hypot(v, 0.15 * u)
    base = pick(rng, (0.58, 0.55, 0.61, 0.52, 0.14, 0.08), 0.02, (0.6, 1.0), (0.65, 1.0))
    dark = np.full(3, rng.uniform(0.03, 0.15), np.float32)
    _, angle = polar(u, side)
    veins = step(np.abs(np.sin(angle * rng.uniform(5, 7))) - 0.9, 0.2)
    color = blend(
        base * np.clip(0.75 + 0.5 * side, 0, 1.2)[..., None],
        dark,
        np.maximum(step(rng.uniform(0.06, 0.12) - wings, 0.06), 0.6 * veins),
    )
    for at, out in ((fore_u, 0.55), (hind_u, 0.4)):
        distance = np.hypot(u - at, side - out)
        color = blend(color, dark, step(0.17 - distance, 0.05))
        color = blend(color, np.clip(1.2 - base, 0, 1), step(0.1 - distance, 0.05))
    return np.maximum(wings, body), blend(color, dark, step(body, 0.05))


KINDS = (
    Kind('leaf', (60, 160, 60), 0.7, 2, leaf),
    Kind('stone', (130, 130, 150), 0.6, 2, stone),
    Kind('flower', (230, 90, 170), 0.5, 2, flower),
    Kind('mushroom', (200, 60, 40), 0.42, 1, mushroom),
    Kind('shell', (245, 190, 90), 0.34, 1, shell),
    Kind('beetle', (60, 60, 220), 0.27, 1, beetle),
    Kind('butterfly', (60, 210, 230), 0.2, 1, butterfly),
)
CLASSES = ('background', *(kind.name for kind in KINDS))
PALETTE = ((0, 0, 0), *(kind.color for kind in KINDS))


# --- grounds and clutter


def ground(rng: Generator, shape: tuple[int, int]) -> Array:
    """The background: sand, soil, grass, planks, cobbles, water or cloth, in one of many colors."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / shape[0]
    turn = rng.uniform(0, np.pi)
    s, t = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    hues = (0.1, 0.07, 0.25, 0.55, 0.6, 0.0, 0.75)
    base, other = (pick(rng, hues, 0.05, (0.03, 0.4), (0.25, 0.75)) for _ in range(2))
    match rng.integers(7):
        case 0:  # sand
            relief = 0.5 * noise(rng, shape, 60) + 0.4 * noise(rng, shape, 3)
        case 1:  # soil
            relief = noise(rng, shape, 7, 4)
        case 2:  # grass: noise stretched along one direction
            blades = noise(rng, shape, 40)
            size = int(rng.integers(9, 21))
            stroke = cv2.getRotationMatrix2D((size / 2, size / 2), np.degrees(turn), 1)
            line = np.zeros((size, size), np.float32)
            line[size // 2] = 1
            kernel = cv2.warpAffine(line, stroke, (size, size))
            relief = 2.2 * cv2.filter2D(blades, -1, kernel / max(kernel.sum(), 1))
        case 3:  # planks
            wide = rng.uniform(3, 6)
            plank = np.floor(t * wide)
            grain = np.sin(40 * t + 6 * noise(rng, shape, 2) + 5 * np.sin(7 * plank))
            relief = (
                0.5 * grain
                + 0.6 * np.sin(12.9 * plank)
                - 2.5 * step(0.03 - np.abs(t * wide - plank - 0.5) + 0.42, 0.03)
                + 2.5
            )
        case 4:  # cobbles: distance to the nearest of random seeds
            seeds = np.full(shape, 255, np.uint8)
            count = int(rng.integers(20, 70))
            seeds[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
            distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 3) / shape[0] * np.sqrt(count)
            relief = 1.2 - 3 * distance + 0.3 * noise(rng, shape, 30)
        case 5:  # water
            relief = np.sin(rng.uniform(15, 35) * t + 1.5 * noise(rng, shape, 4)) + 0.4 * noise(rng, shape, 5)
        case _:  # cloth
            weave = rng.uniform(60, 130)
            relief = 0.7 * np.sin(weave * s) * np.sin(weave * t) + 0.6 * np.sign(
                np.sin(rng.uniform(8, 25) * s)
            ) * rng.integers(2)
    return blend(
        base * (1 + 0.1 * noise(rng, shape, 2)[..., None]), other, np.clip(0.4 + rng.uniform(0.12, 0.3) * relief, 0, 1)
    )


def scrap(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """Clutter with outlines and colors like the things', but plain or with a texture that no class has."""
    r, angle = polar(u, v / rng.uniform(0.45, 1))
    match rng.integers(4):
        case 0:
            inside = 0.8 - r
        case 1:
            inside = 0.5 * (1 - np.clip(u, -1, 1) ** 2) - np.abs(v) - 0.5 * np.maximum(np.abs(u) - 1, 0)
        case 2:
            sides = int(rng.integers(3, 7))
            inside = 0.65 - r * np.cos((angle + np.pi) % (2 * np.pi / sides) - np.pi / sides)
        case _:
            inside = rng.uniform(0.1, 0.2) - np.abs(r - 0.7)
    base, other = (pick(rng, (0.0, 0.08, 0.15, 0.3, 0.58, 0.9), 0.05, (0.1, 0.9), (0.3, 0.95)) for _ in range(2))
    match rng.integers(4):
        case 0 | 1:
            amount = np.clip(0.3 * u, 0, 1)
        case 2:
            amount = step(np.sin(9 * u) * np.sin(9 * v), 0.3)
        case _:
            amount = step(np.sin(rng.uniform(6, 14) * u), 0.5)
    return inside, blend(base + np.zeros((*u.shape, 3), np.float32), other, amount * rng.uniform(0.3, 1))


def twig(rng: Generator, u: Array, v: Array) -> tuple[Array, Array]:
    """A thin bent stroke; it may lie over the things and then hides them."""
    bend = rng.uniform(-0.4, 0.4) * u**2 + rng.uniform(-0.1, 0.1) * np.sin(5 * u)
    inside = np.minimum(rng.uniform(0.02, 0.06) * (1.3 - u) - np.abs(v - bend), 1 - np.abs(u))
    base = pick(rng, (0.08, 0.28, 0.1), 0.04, (0.1, 0.7), (0.2, 0.75))
    return inside, base * (1 + 0.2 * noise(rng, u.shape, 12)[..., None])
