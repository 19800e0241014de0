"""Scenes of a few coloured objects, rendered with NumPy alone.

A family and a seed determine a `Scene`: the same scene and the same pixels on every machine. Its image (`render`), captions
(captions.py), questions and facts are derived from it.

Two families share colours, sizes and relations, and differ in objects, background and style: "shapes" (flat figures on a plain
background) and "garden" (outlined things in a landscape). Statistics of one do not fit the other.

Objects stand in the cells of a 3 x 3 grid, a few pixels off centre. Two objects of different columns are at least 16 pixels
apart horizontally, two of the same column at most 4, so "left of" never depends on one pixel.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from fastrealign.core.errors import InputError

SIDE = 64  # pixels: a picture is SIDE x SIDE
CELLS = (11, 32, 53)  # centres of the grid's rows and columns, in pixels
JITTER = 2  # an object stands at most this many pixels off its cell's centre, each way
MARGIN = 10  # "left of" and its kin hold when the centres differ by at least this many pixels
OBJECTS = (2, 4)  # fewest and most objects in a scene

COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (240, 215, 40),
    "green": (40, 160, 60),
    "blue": (40, 90, 220),
    "purple": (130, 60, 180),
    "pink": (245, 130, 190),
    "brown": (130, 82, 45),
}
SIZES = {"small": 5, "large": 8}  # half the width of an object, in pixels
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # (x, y), y grows downwards


@dataclass(frozen=True)
class Object:
    noun: str
    colour: str
    size: str
    x: int  # centre in pixels from the left
    y: int  # centre in pixels from the top


@dataclass(frozen=True)
class Scene:
    family: str
    seed: int
    background: str
    objects: tuple[Object, ...]  # in reading order: by row, then by column of the grid


Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (x, y) in [-1, 1] -> inside?


@dataclass(frozen=True)
class Family:
    """What a scene of this family is made of. A background is (colour above, colour below, height of the border)."""

    nouns: dict[str, Mask]
    backgrounds: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]]
    outline: bool


def _polygon(points: int, inner: float) -> Mask:
    """A star of `points` tips whose notches lie at `inner` of the radius, one tip up."""

    def mask(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        step = np.pi / points
        angle = np.abs((np.arctan2(x, -y) + step) % (2 * step) - step)
        # The edge runs from the tip (radius 1, angle 0) to the notch (radius `inner`, angle `step`).
        edge = inner * np.sin(step) / (inner * np.sin(step - angle) + np.sin(angle))
        return np.hypot(x, y) <= edge

    return mask


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = 1.2 * x, 0.15 - 1.2 * y
    return (u * u + v * v - 0.8) ** 3 <= 1.3 * u * u * v**3


def _box(x: np.ndarray, y: np.ndarray, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


def _disc(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1


FAMILIES = {
    "shapes": Family(
        nouns={
            "circle": lambda x, y: np.hypot(x, y) <= 1,
            "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.88,
            "triangle": lambda x, y: (y <= 0.85) & (abs(x) <= (y + 1) * 0.54),
            "diamond": lambda x, y: abs(x) * 1.45 + abs(y) <= 1,
            "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.32) & (np.maximum(abs(x), abs(y)) <= 1),
            "star": _polygon(5, 0.42),
            "ring": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.55),
            "heart": _heart,
        },
        backgrounds={
            "white": ((250, 250, 250), (250, 250, 250), 1.0),
            "grey": ((150, 150, 155), (150, 150, 155), 1.0),
            "black": ((15, 15, 20), (15, 15, 20), 1.0),
            "beige": ((232, 214, 178), (232, 214, 178), 1.0),
        },
        outline=False,
    ),
    "garden": Family(
        nouns={
            "tree": lambda x, y: ((y <= 0.5) & (abs(x) <= (y + 1) * 0.55)) | _box(x, y, -0.2, 0.4, 0.2, 1),
            "house": lambda x, y: (
                (_box(x, y, -0.7, -0.1, 0.7, 0.95) & ~_box(x, y, -0.2, 0.4, 0.2, 1))
                | ((y <= -0.1) & (abs(x) <= (y + 1) * 1.1))
            ),
            "flower": lambda x, y: (
                (np.hypot(x, y + 0.4) <= 0.48 + 0.12 * np.cos(5 * np.arctan2(x, -y - 0.4)))
                | _box(x, y, -0.12, 0, 0.12, 1)
            ),
            "mushroom": lambda x, y: (_disc(x, y, 0, 0, 1, 0.9) & (y <= 0)) | _box(x, y, -0.3, 0, 0.3, 0.9),
            "boat": lambda x, y: (
                ((y >= 0.35) & (y <= 0.9) & (abs(x) <= 1.35 - y))
                | ((x >= -0.1) & (y <= 0.25) & (y >= -1 + (x + 0.1) * 1.5))
            ),
            "bottle": lambda x, y: _box(x, y, -0.42, -0.1, 0.42, 1) | _box(x, y, -0.17, -1, 0.17, 0),
            "fish": lambda x, y: _disc(x, y, -0.25, 0, 0.75, 0.5) | ((x >= 0.3) & (x <= 1) & (abs(y) <= x - 0.3)),
            "cloud": lambda x, y: (
                _disc(x, y, -0.45, 0.15, 0.5, 0.4) | _disc(x, y, 0.45, 0.15, 0.5, 0.4) | _disc(x, y, 0, -0.1, 0.5, 0.5)
            ),
        },
        backgrounds={
            "meadow": ((150, 205, 245), (120, 190, 100), 0.45),
            "snow": ((190, 205, 220), (244, 246, 250), 0.45),
            "desert": ((250, 225, 170), (222, 178, 110), 0.45),
            "forest": ((18, 52, 40), (52, 44, 32), 0.45),
        },
        outline=True,
    ),
}


def scene(seed: int, family: str = "shapes") -> Scene:
    """The scene of this family and seed. Raises InputError for a family that does not exist."""
    world = family_of(family)
    # random.Random keeps its sequence for a seed between Python versions; a string seed is hashed by SHA-512.
    rng = random.Random(f"{family} {seed}")
    cells = sorted(rng.sample(range(9), rng.randint(*OBJECTS)))
    background = rng.choice(list(world.backgrounds))
    objects = tuple(
        Object(
            noun=rng.choice(list(world.nouns)),
            colour=rng.choice(list(COLOURS)),
            size=rng.choice(list(SIZES)),
            x=CELLS[cell % 3] + rng.randint(-JITTER, JITTER),
            y=CELLS[cell // 3] + rng.randint(-JITTER, JITTER),
        )
        for cell in cells
    )
    return Scene(family, seed, background, objects)


def related(a: Object, relation: str, b: Object) -> bool:
    """Whether "a is `relation` b" (one of RELATIONS) is true, by the centres alone."""
    dx, dy = RELATIONS[relation]
    return (a.x - b.x) * dx + (a.y - b.y) * dy >= MARGIN


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene: uint8, shape (SIDE, SIDE, 3), RGB."""
    picture = _background(scene.family, scene.background).copy()
    for o in scene.objects:
        alpha, ink = _sprite(scene.family, o.noun, o.colour, o.size)
        half = alpha.shape[0] // 2
        # The sprite may reach a pixel over the picture's edge; both are cut to what they share.
        top, left = o.y - half, o.x - half
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + 2 * half, SIDE), min(left + 2 * half, SIDE)
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha[part]) + ink[part]
    return np.rint(picture).astype(np.uint8)


def family_of(name: str) -> Family:
    """The family of this name; InputError for one that does not exist."""
    if name not in FAMILIES:
        raise InputError(f"there is no family of scenes {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


@cache
def _background(family: str, name: str) -> np.ndarray:
    above, below, border = family_of(family).backgrounds[name]
    rows = np.arange(SIDE)[:, None, None] < border * SIDE
    return np.broadcast_to(np.where(rows, above, below), (SIDE, SIDE, 3)).astype(np.float32)


@cache
def _sprite(family: str, noun: str, colour: str, size: str) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, coverage * colour) of one object, drawn four times finer and averaged down to smooth its edges."""
    half, fine = SIZES[size], 4
    pixels = 2 * (half + 1)
    axis = ((np.arange(pixels * fine) + 0.5) / fine - pixels / 2) / half
    world = family_of(family)
    with np.errstate(all="ignore"):  # a star's edge is undefined at its very centre, which is inside all the same
        inside = world.nouns[noun](*np.meshgrid(axis, axis)).astype(np.float32)
    ink = inside[..., None] * np.array(COLOURS[colour], np.float32)
    if world.outline:
        padded = np.pad(inside, 3)
        core = np.minimum.reduce([padded[1:-5, 3:-3], padded[5:-1, 3:-3], padded[3:-3, 1:-5], padded[3:-3, 5:-1]])
        ink *= (0.35 + 0.65 * core)[..., None]
    coverage = inside[..., None]
    return tuple(a.reshape(pixels, fine, pixels, fine, -1).mean((1, 3)) for a in (coverage, ink))
