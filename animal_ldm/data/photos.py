"""One photo: opened, checked, set upright, fingerprinted, cropped to a square and scaled."""

import hashlib
import re
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SRGB = ImageCms.createProfile("sRGB")

# Budgets of a photo, far above what cameras need: a sensor of 102 million pixels and a JPEG of 10 scans.
MAX_PIXELS = 120_000_000
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 1_500_000_000  # a decoder of progressive JPEGs visits every pixel for every scan
MAX_SECONDS = 30.0  # of processor time, so that the load of the machine makes no difference

# Programs rather than images: Pillow would run Ghostscript on them.
REFUSED_FORMATS = ("EPS",)

# In a JPEG's compressed data, 0xFF is followed by 0x00 or by one of the markers D0 to D7.
JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = b"\xd8", b"\xd9", b"\xda"

# 16-bit grey to 8 bits: 0 -> 0, 65535 -> 255, rounded.
EIGHT_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)


class Box(NamedTuple):
    """A rectangle in pixels from the upper left corner of the upright photo."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def within(self, other: "Box") -> "Box":
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


class SkippedPhoto(Exception):
    """A photo that cannot be used; `reason` is a key of the report's counts, `detail` says it for this photo."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class OutOfTime(BaseException):
    """Not an `Exception`, which a decoder might take for damage in the file."""


class OpenedPhoto(NamedTuple):
    """An upright sRGB image; `profile_problem` says why its colour profile was ignored, "" where it was not."""

    image: Image.Image
    profile_problem: str


def open_photo(data: bytes) -> OpenedPhoto:
    """Decode a photo file to an upright sRGB image at its full size.

    The EXIF orientation is applied, colours are converted from the photo's ICC profile, if it has one, to sRGB,
    transparency is laid onto white, 16-bit grey is scaled to 8 bits, and of an animation the first frame is taken.

    Raises:
        SkippedPhoto: `not_an_image`, `broken` (truncated or damaged), `decompression_bomb` (more than `MAX_PIXELS`,
            refused before any pixel is decoded) or `too_slow` (too many scans, or more than `MAX_SECONDS`).
    """
    try:
        with warnings.catch_warnings(), time_limit(MAX_SECONDS):
            # Pillow warns of photos that are within our own limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return decode(identify(data), data)
    except OutOfTime:
        raise SkippedPhoto("too_slow", f"more than {MAX_SECONDS:g} s to decode") from None


def identify(data: bytes) -> Image.Image:
    """The image before any pixel is decoded."""
    Image.init()
    try:
        image = Image.open(BytesIO(data), formats=[name for name in Image.ID if name not in REFUSED_FORMATS])
    except UnidentifiedImageError:
        raise SkippedPhoto("not_an_image", "not in an image format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise SkippedPhoto("decompression_bomb", str(error)) from None
    except Exception as error:
        raise SkippedPhoto("broken", describe(error)) from None
    if image.mode == "F":
        raise SkippedPhoto("not_an_image", "floating-point pixels of unknown range")
    return image


def decode(image: Image.Image, data: bytes) -> OpenedPhoto:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise SkippedPhoto("decompression_bomb", f"{pixels:,} pixels are more than the limit of {MAX_PIXELS:,}")
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(data)
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
            raise SkippedPhoto("too_slow", f"a JPEG of {scans:,} scans")
    try:
        image.load()
        return to_srgb(ImageOps.exif_transpose(image))
    except Exception as error:  # what a damaged file raises depends on Pillow's decoder for it
        raise SkippedPhoto("broken", describe(error)) from None


def count_scans(data: bytes) -> int:
    """Scans of the first image in a JPEG file: one or three, or some ten if it is progressive."""
    scans = position = 0
    while found := JPEG_MARKER.search(data, position):
        marker = found[1]
        position = found.end()
        if marker == END_OF_IMAGE:
            break
        if marker != START_OF_IMAGE:
            position += int.from_bytes(data[position : position + 2])  # the length of the marker's own data
        scans += marker == START_OF_SCAN
    return scans


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so much processor time, as soon as the decoder gives Python a chance.

    Works in the main thread of a process, on systems that have such timers; elsewhere there is no limit.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def to_srgb(image: Image.Image) -> OpenedPhoto:
    """With a profile that is broken, or made for another kind of image, the colours stay as they are."""
    problem = ""
    profile = image.info.pop("icc_profile", None)
    if profile:
        try:
            image = apply_profile(image, ImageCms.ImageCmsProfile(BytesIO(profile)))
        except (OSError, ImageCms.PyCMSError) as error:
            problem = describe(error)
    return OpenedPhoto(to_rgb(image), problem)


def apply_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    """Colours from `profile` to sRGB.

    Raises:
        ImageCms.PyCMSError: the profile does not go with the image's mode.
    """
    space = profile.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
    if space == "RGB" and image.mode != "CMYK":
        image = to_rgb(image)
    elif space == "GRAY" and Image.getmodebase(image.mode) == "L":
        image = to_rgb(image).convert("L")
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    assert converted is not None  # only of a conversion in place
    del converted.info["icc_profile"]  # an image without a profile is in sRGB
    return converted


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        grey = np.asarray(image)
        return Image.fromarray(EIGHT_BITS[grey if grey.dtype == np.uint16 else grey.clip(0, 65535)]).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def pixel_digest(image: Image.Image) -> str:
    """16 hexadecimal digits of the SHA-256 of size and pixels: equal for equal images in any file format."""
    return hashlib.sha256(b"%d %d " % image.size + image.tobytes()).hexdigest()[:16]


def center_square(width: int, height: int) -> Box:
    """The largest square in the middle of the photo."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return Box(left, top, left + side, top + side)


def square_around(boxes: list[Box], width: int, height: int, margin: float, smallest: int) -> Box:
    """The square around all `boxes`, moved into the photo.

    Its side is the longer side of the boxes' union plus `margin` of that on either side, at least `smallest` pixels
    and at most the photo's shorter side. All boxes rather than the largest, so that a label's count stays true.
    """
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right, bottom = max(box.right for box in boxes), max(box.bottom for box in boxes)
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    side = round(min(max(side, smallest), width, height))
    x = min(max(round((left + right - side) / 2), 0), width - side)
    y = min(max(round((top + bottom - side) / 2), 0), height - side)
    return Box(x, y, x + side, y + side)


def visible(box: Box, crop: Box) -> bool:
    """Whether at least half of `box` lies within `crop`."""
    return box.within(crop).area >= box.area / 2


def scale_square(image: Image.Image, crop: Box, image_size: int) -> Image.Image:
    """`crop` of `image` as a square of `image_size` pixels, by Pillow's antialiased Lanczos filter over all pixels."""
    return image.crop(crop).resize((image_size, image_size), Image.Resampling.LANCZOS)
