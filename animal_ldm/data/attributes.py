"""Words that can be measured from a square photo and are true of it: colour, background, framing and number.

A word is said only if several conditions hold; most photos get none. Everything is a function of the pixels and, if
there are any, the boxes. So the same measure can be applied to generated images, which have no boxes.

How the animal is told from its surroundings: the surroundings are what lies outside the boxes or, without boxes, along
the border. Its colours are clustered. A figure is what differs from these clusters, or from the one colour that fills
the border, and is connected to the middle. A third figure is the region of one colour in the middle, if that colour is
rare at the border. The colour of the animal is said if no two figures disagree.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .photos import Box, visible

FULL_SIDE = 128  # pixels of the image whose fine texture is measured
SIDE = 64  # pixels of the image in which colours are named
NUMBERS = {2: "two", 3: "three"}
BLACK_AND_WHITE = "black and white"


@dataclass(frozen=True)
class Attributes:
    """What can be said of a photo; "" where nothing is sure.

    Attributes:
        colour: of the animal: one of `ANIMAL_COLOURS`, or "black and white".
        background: colour of the surroundings: one of `COLOURS`.
        framing: "close-up" or "from afar"; only known where there are boxes.
        number: "two", "three" or "several"; only known where there are boxes.
    """

    colour: str = ""
    background: str = ""
    framing: str = ""
    number: str = ""

    @classmethod
    def parse(cls, value: Any) -> "Attributes":
        """Read the field `attributes` of a line of `metadata.jsonl`; kinds of a later version are ignored.

        Raises:
            ValueError: it is not an object of strings.
        """
        if not isinstance(value, dict) or not all(isinstance(word, str) for word in value.values()):
            raise ValueError("attributes must be an object of strings")
        return cls(**{kind: value[kind] for kind in KINDS if kind in value})

    def words(self) -> dict[str, str]:
        """What is said, by kind."""
        return {kind: word for kind, word in asdict(self).items() if word}


KINDS = tuple(Attributes.__dataclass_fields__)


class Range(NamedTuple):
    """A region of CIE L*C*h: lightness 0 to 100, chroma, and hue in degrees; hues may be negative."""

    lightness: tuple[float, float]
    chroma: tuple[float, float]
    hue: tuple[float, float] = (0, 360)

    def holds(self, lch: np.ndarray) -> np.ndarray:
        """Which pixels of (H, W, 3) are in the region, (H, W)."""
        lightness, chroma, hue = lch[..., 0], lch[..., 1], lch[..., 2]
        inside = (self.lightness[0] <= lightness) & (lightness <= self.lightness[1])
        inside &= (self.chroma[0] <= chroma) & (chroma <= self.chroma[1])
        first, last = self.hue
        return inside if last - first >= 360 else inside & ((hue - first) % 360 <= last - first)


# Word -> (typical, possible): what everybody calls so, and what shade, light and fur make of it. Between them the
# words leave gaps and overlap, as they do among people. Set by eye on photos of animals.
COLOURS = {
    "black": (Range((0, 17), (0, 9)), Range((0, 30), (0, 13))),
    "white": (Range((75, 101), (0, 12)), Range((61, 101), (0, 18))),
    "grey": (Range((30, 62), (0, 8)), Range((21, 70), (0, 12))),
    "brown": (Range((20, 62), (14, 42), (38, 82)), Range((8, 74), (8, 50), (28, 92))),
    "orange": (Range((45, 78), (40, 110), (45, 74)), Range((32, 85), (30, 120), (38, 80))),
    "red": (Range((20, 65), (38, 130), (-10, 40)), Range((12, 72), (28, 130), (-20, 48))),
    "yellow": (Range((62, 98), (48, 130), (78, 106)), Range((52, 100), (36, 130), (72, 112))),
    "green": (Range((12, 85), (15, 130), (98, 165)), Range((5, 94), (7, 130), (88, 180))),
    "blue": (Range((15, 88), (12, 130), (220, 292)), Range((8, 94), (7, 130), (205, 305))),
    "pink": (Range((50, 85), (28, 110), (-25, 25)), Range((40, 92), (16, 110), (-40, 32))),
}
# Green animals are rare: what looks green in the middle is mostly a leaf, or fur in the light of leaves. What looks
# pink is mostly a face.
ANIMAL_COLOURS = tuple(name for name in COLOURS if name not in ("green", "pink"))
OPPOSITE = {"black": "white", "white": "black"}
# The share of a black, white or grey animal that must be typical: shade and light produce the others.
TYPICAL_NEUTRAL = {"black": 0.6, "white": 0.5, "grey": 0.5}

MIN_CHROMA = 7  # of the most colourful tenth of a photo; below it the photo is black and white
MIN_FIGURE, MAX_FIGURE = 0.05, 0.75  # of the square
DIFFERENT = 18  # distance in Lab, with lightness weighted 0.6, from the surroundings' nearest colour
LIGHTNESS_WEIGHT = np.array([0.6, 1, 1], np.float32)

ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5
TO_SIDE = np.minimum(COLUMNS, SIDE - COLUMNS) / SIDE
TO_TOP, TO_BOTTOM = ROWS / SIDE, 1 - ROWS / SIDE
RING = np.minimum(np.minimum(TO_SIDE, TO_TOP), TO_BOTTOM) < 0.08
# Without the lower border, which animals often touch.
UPPER_BORDER = np.minimum(TO_SIDE, TO_TOP) < 0.1
RADIUS = np.hypot(ROWS - SIDE / 2, COLUMNS - SIDE / 2) / SIDE
MIDDLE, WIDE_MIDDLE = RADIUS < 0.22, RADIUS < 0.38

# sRGB to linear light, and linear light to CIE XYZ relative to the white point D65 (IEC 61966-2-1).
LEVELS = np.arange(256) / 255
LINEAR = np.where(LEVELS <= 0.04045, LEVELS / 12.92, ((LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1], [1.08883]])


def measure(image: np.ndarray, boxes: Sequence[Box] = ()) -> Attributes:
    """Measure a square photo or a generated image. Takes some 10 ms.

    Args:
        image: uint8 RGB, (H, W, 3); it is scaled to 128 x 128 pixels first.
        boxes: the boxes of all labelled animals, in pixels of `image`; they may lie partly outside of it.

    Raises:
        ValueError: `image` is of another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"Expected a uint8 image of shape (H, W, 3), but it is {image.dtype} of {image.shape}.")
    height, width = image.shape[:2]
    scaled = [Box(b.left / width, b.top / height, b.right / width, b.bottom / height) for b in boxes]
    photo = see(image, scaled)
    background = colour = ""
    if np.quantile(photo.chroma, 0.9) >= MIN_CHROMA:
        background = background_colour(photo)
        colour = animal_colour(photo, background)
    return Attributes(colour, background, framing(scaled), number(scaled))


# --- what the boxes tell ---------------------------------------------------------------------------------------------


def framing(boxes: Sequence[Box]) -> str:
    """From `boxes` in fractions of the square: one that fills it is a close-up, small ones are seen from afar."""
    if not boxes:
        return ""
    whole = Box(0, 0, 1, 1)
    seen = union(boxes).within(whole)
    width, height = seen.right - seen.left, seen.bottom - seen.top
    if len(boxes) == 1 and min(width, height) > 0.985:
        return "close-up"
    return "from afar" if 0 < max(width, height) < 0.35 else ""


def number(boxes: Sequence[Box]) -> str:
    """How many animals the label counts, if the square shows all of them; "" for one."""
    if len(boxes) < 2 or not all(visible(box, Box(0, 0, 1, 1)) for box in boxes):
        return ""
    return NUMBERS.get(len(boxes), "several")


def union(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


# --- what the pixels tell --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A photo at 64 x 64 pixels: its colours by name, and where its animal and its surroundings are looked for.

    Attributes:
        lightness: of each pixel, (64, 64).
        chroma: of each pixel, (64, 64).
        texture: standard deviation of the lightness within each pixel, (64, 64).
        pattern: standard deviation of the lightness among the 4 x 4 pixels around, (64, 64).
        typical, possible: by colour word, which pixels have it, (64, 64).
        difference: of each pixel from the surroundings' nearest colour, (64, 64).
        core: the middle, where the animal must be, (64, 64).
        wide: the part that holds most of the animal, (64, 64).
        allowed: outside of it there is no animal: everything, or the boxes, (64, 64).
        border: the surroundings that a figure's colour must not have, (64, 64).
        ring: the surroundings whose colour is the background's, (64, 64).
        boxes: "no"; "yes"; or "all" if they leave no surroundings.
    """

    lightness: np.ndarray
    chroma: np.ndarray
    texture: np.ndarray
    pattern: np.ndarray
    typical: dict[str, np.ndarray]
    possible: dict[str, np.ndarray]
    difference: np.ndarray
    core: np.ndarray
    wide: np.ndarray
    allowed: np.ndarray
    border: np.ndarray
    ring: np.ndarray
    boxes: str

    def common(self, region: np.ndarray, typical: float, possible: float, among: Sequence[str] = ()) -> str:
        """The word for most of `region`, whose shares are at least `typical` and `possible`; "" if there is none."""
        best, word = 0.0, ""
        for name in among or COLOURS:
            shares = share(self.typical[name], region), share(self.possible[name], region)
            if shares[0] >= typical and shares[1] >= possible and sum(shares) > best:
                best, word = sum(shares), name
        return word


def see(image: np.ndarray, boxes: Sequence[Box]) -> Seen:
    full = Image.fromarray(image).resize((FULL_SIDE, FULL_SIDE), Image.Resampling.BOX)
    half = np.asarray(full.resize((SIDE, SIDE), Image.Resampling.BOX))
    grey = np.asarray(full.convert("L"), np.float32).reshape(SIDE, 2, SIDE, 2) / 2.55
    lab = to_lab(half)
    lch = np.stack(
        [lab[..., 0], np.hypot(lab[..., 1], lab[..., 2]), np.degrees(np.arctan2(lab[..., 2], lab[..., 1]))], -1
    )
    core, wide, allowed, border, ring = MIDDLE, WIDE_MIDDLE, np.ones_like(RING), UPPER_BORDER, RING
    kind = "no"
    if boxes:
        allowed, core = paint(boxes, 1.0), paint(boxes, 0.0)
        wide, kind = allowed, "all"
        if (~allowed).mean() >= 0.06:
            border = ring = ~allowed
            kind = "yes"
    return Seen(
        lightness=lab[..., 0],
        chroma=lch[..., 1],
        texture=grey.std((1, 3)),
        pattern=lab[..., 0].reshape(SIDE // 4, 4, SIDE // 4, 4).std((1, 3)).repeat(4, 0).repeat(4, 1),
        typical={name: typical.holds(lch) for name, (typical, _) in COLOURS.items()},
        possible={name: possible.holds(lch) for name, (_, possible) in COLOURS.items()},
        difference=difference(lab, main_colours(lab[ring][::2])),
        core=core,
        wide=wide,
        allowed=allowed,
        border=border,
        ring=ring,
        boxes=kind,
    )


def paint(boxes: Sequence[Box], corners: float) -> np.ndarray:
    """The boxes (`corners` 1), or the ellipse in the middle of each (`corners` 0), as a mask of (64, 64)."""
    mask = np.zeros((SIDE, SIDE), bool)
    for box in boxes:
        box = Box(*(value * SIDE for value in box))
        x = (COLUMNS - (box.left + box.right) / 2) / max((box.right - box.left) / 2, 1e-6)
        y = (ROWS - (box.top + box.bottom) / 2) / max((box.bottom - box.top) / 2, 1e-6)
        mask |= np.maximum(abs(x), abs(y)) < 1 if corners else x**2 + y**2 < 0.4
    return mask


def background_colour(photo: Seen) -> str:
    """The one colour of the surroundings, if the middle is of another."""
    if photo.boxes == "all":
        return ""
    word = photo.common(photo.ring, 0.42, 0.77)
    if not word or connected(photo.possible[word], photo.ring).mean() <= 0.25:
        return ""
    # Few animals are green or blue, but leaves and sky shine through between them.
    return word if share(photo.possible[word], photo.core) < (0.6 if word in ("green", "blue") else 0.3) else ""


def animal_colour(photo: Seen, background: str) -> str:
    figures = [connected((photo.difference > DIFFERENT) & photo.allowed, photo.core)]
    if background:
        figures.insert(0, connected(~photo.possible[background] & photo.allowed, photo.core))
    figures = [figure for figure in figures if of_an_animal(figure, photo)]
    told = [(word, figure) for figure in figures if (word := photo.common(eroded(figure), 0.4, 0.8, ANIMAL_COLOURS))]
    by_contrast = bool(told)
    told += colours_of_the_middle(photo, background)
    if photo.boxes != "no" and (word := photo.common(photo.core, 0.5, 0.85, ANIMAL_COLOURS)):
        told.append((word, photo.core))
    words = {word for word, _ in told}
    if not words:
        return BLACK_AND_WHITE if any(black_and_white(figure, photo) for figure in figures) else ""
    word = words.pop()
    if words or word == background:
        return ""
    figure = max((figure for _, figure in told), key=lambda mask: int(mask.sum()))
    return word if plain(word, figure, photo, background, by_contrast) else ""


def of_an_animal(figure: np.ndarray, photo: Seen) -> bool:
    """Whether a figure has an animal's size and fills the middle."""
    return MIN_FIGURE < figure.mean() < MAX_FIGURE and share(figure, photo.core) > 0.6


def colours_of_the_middle(photo: Seen, background: str) -> list[tuple[str, np.ndarray]]:
    """Colours that fill the middle and are rare at the border, with their regions."""
    if photo.boxes == "all":
        return []
    told = []
    for word in ANIMAL_COLOURS:
        possible = photo.possible[word]
        if share(photo.typical[word], photo.core) < 0.4 or share(possible, photo.core) < 0.7:
            continue
        if share(possible, photo.border) > 0.36:
            continue
        figure = connected(possible, photo.core)
        unlike = ~photo.possible[background] if background else (photo.difference > 16) | possible
        animal = connected(unlike & photo.allowed, photo.core)
        if share(figure, animal) >= 0.7 and MIN_FIGURE < figure.mean() < MAX_FIGURE:
            told.append((word, figure))
    return told


def plain(word: str, figure: np.ndarray, photo: Seen, background: str, by_contrast: bool) -> bool:
    """Whether the whole animal is of the colour `word`, rather than patterned, in shade or in glaring light.

    `by_contrast`: whether the figure was told by its contrast to the surroundings, not by its colour alone.
    """
    whole = figure | holes(figure)  # eyes, and the black patches of a panda's face
    opposite = OPPOSITE.get(word)
    if opposite is None:
        if min(share(photo.typical["black"], whole), share(photo.typical["white"], whole)) > 0.06:
            return False
    elif share(photo.typical[opposite], whole) > 0.04 or (
        share(photo.possible[opposite], photo.wide) > 0.08 and share(photo.possible[opposite], photo.ring) < 0.6
    ):
        return False
    strange = ~photo.possible[word] & photo.wide
    if share(strange & (photo.difference > 14), photo.wide) > (0.2 if word in TYPICAL_NEUTRAL else 0.35):
        return False
    texture, pattern = np.median(photo.texture[figure]), np.median(photo.pattern[eroded(figure)])
    if texture > 9 or pattern > 13:  # stripes and spots
        return False
    if word == "blue" and np.median(photo.chroma[figure]) < 16:  # black in the light of the sky
        return False
    if word == "red" and (photo.possible["brown"] | photo.possible["orange"]).mean() > 0.25:  # a face
        return False
    if word not in TYPICAL_NEUTRAL:
        return True
    low, high = np.quantile(photo.lightness[figure], [0.1, 0.9])
    # The brightest thing in a photo may be white and in the shade.
    in_shade = np.quantile(photo.lightness, 0.97) - high < 10
    if word == "grey" and max(share(photo.typical[name], photo.wide & ~photo.ring) for name in OPPOSITE) > 0.2:
        return False
    if word == "grey" and (in_shade or texture > 4 or pattern > 7 or high - low > 34):
        return False
    if word == "white" and share(photo.possible["black"], whole) > 0.06:
        return False
    if word == "white" and (pattern > 7 or high - low > 32):
        return False
    if word != "black":  # patches that the surroundings have too
        other = strange & ~photo.possible[background] if background else strange
        if share(other, photo.wide) > (0.15 if background else 0.28):
            return False
    if word == "black" and high > 36:
        return False
    if share(photo.typical[word], eroded(figure)) < TYPICAL_NEUTRAL[word]:
        return False
    return by_contrast or (
        share(photo.possible[word], photo.core) >= 0.86
        and share(photo.possible[word], photo.wide) >= 0.68
        and share(strange & (photo.difference > 11), photo.wide) <= 0.12
        and (opposite is None or share(photo.possible[opposite], photo.wide) <= 0.05)
    )


def black_and_white(figure: np.ndarray, photo: Seen) -> bool:
    inner = eroded(figure)
    black, white = photo.possible["black"], photo.possible["white"]
    return (
        share(black | white | photo.possible["grey"], inner) > 0.88
        and share(black | white, inner) > 0.65
        and min(share(black, inner), share(white, inner)) > 0.22
        and min(share(photo.typical["black"], inner), share(photo.typical["white"], inner)) > 0.14
    )


# --- colours ---------------------------------------------------------------------------------------------------------


def to_lab(image: np.ndarray) -> np.ndarray:
    """sRGB of uint8, (..., 3), to CIE L*a*b*, float32 (..., 3)."""
    xyz = LINEAR[image] @ TO_XYZ.T.astype(np.float32)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def main_colours(lab: np.ndarray, number: int = 6) -> np.ndarray:
    """The colours of (N, 3) pixels, by k-means from the mutually farthest ones; those of few pixels are left out."""
    centres = [lab[((lab - lab.mean(0)) ** 2).sum(1).argmax()]]
    nearest = ((lab - centres[0]) ** 2).sum(1)
    for _ in range(number - 1):
        centres.append(lab[nearest.argmax()])
        nearest = np.minimum(nearest, ((lab - centres[-1]) ** 2).sum(1))
    centres = np.array(centres)
    cluster = np.zeros(len(lab), int)
    for _ in range(8):
        cluster = ((lab[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.array(
            [lab[cluster == i].mean(0) if (cluster == i).any() else centres[i] for i in range(len(centres))]
        )
    return centres[np.bincount(cluster, minlength=number) > 0.05 * len(lab)]


def difference(lab: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Distance of each pixel, (H, W, 3), from the nearest of `colours`, (N, 3)."""
    return np.sqrt((((lab[:, :, None] - colours) * LIGHTNESS_WEIGHT) ** 2).sum(-1).min(-1))


# --- masks -----------------------------------------------------------------------------------------------------------


def share(part: np.ndarray, whole: np.ndarray) -> float:
    """The fraction of `whole` that is in `part`."""
    return float((part & whole).sum() / max(1, whole.sum()))


def connected(mask: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """What of `mask` is connected to `seed` within the mask, by pixels that share a side."""
    reached = mask & seed
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= mask
        if (grown == reached).all():
            return reached
        reached = grown


def eroded(mask: np.ndarray) -> np.ndarray:
    """The mask without its outline, where colours mix; the whole mask if little would be left."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner if inner.sum() > 0.4 * mask.sum() else mask


def holes(mask: np.ndarray) -> np.ndarray:
    """What the mask encloses."""
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    return ~mask & ~connected(~mask, edge)
