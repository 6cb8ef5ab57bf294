"""One photo: opened, checked, set upright, fingerprinted, cropped to a square and scaled."""

import hashlib
import warnings
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SRGB = ImageCms.createProfile("sRGB")


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


class OpenedPhoto(NamedTuple):
    """An upright sRGB picture; `profile_problem` says why its colour profile was left aside, "" where it was not."""

    image: Image.Image
    profile_problem: str


def open_photo(data: bytes) -> OpenedPhoto:
    """Decode a photo file to an upright sRGB picture at its full size.

    The EXIF orientation is applied, colours are brought from the photo's ICC profile, if it has one, to sRGB,
    transparency is laid onto white, 16-bit grey is scaled to 8 bits, and of an animation the first frame is taken.

    Raises:
        SkippedPhoto: `not_an_image`, `broken` (truncated or damaged) or `decompression_bomb` (above Pillow's limit of
            179 million pixels, which is refused before any pixel is decoded).
    """
    with warnings.catch_warnings():
        # Between half the limit and the limit Pillow warns; a photo of 100 million pixels is fine with us.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(data))
        except UnidentifiedImageError:
            raise SkippedPhoto("not_an_image", "no picture format that Pillow knows") from None
        except Image.DecompressionBombError as error:
            raise SkippedPhoto("decompression_bomb", str(error)) from None
        except Exception as error:
            raise SkippedPhoto("broken", describe(error)) from None
        if image.mode == "F":
            raise SkippedPhoto("not_an_image", "floating-point pixels, whose range nobody knows")
        try:
            image.load()
            return to_srgb(ImageOps.exif_transpose(image))
        except Exception as error:  # what a damaged file raises depends on Pillow's decoder for it
            raise SkippedPhoto("broken", describe(error)) from None


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def to_srgb(image: Image.Image) -> OpenedPhoto:
    """With a profile that is broken, or made for another kind of picture, the colours stay as they are."""
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
        ImageCms.PyCMSError: the profile does not go with the picture's mode.
    """
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and image.mode != "CMYK":
        image = to_rgb(image)
    elif space == "GRAY" and Image.getmodebase(image.mode) == "L":
        image = to_rgb(image).convert("L")
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    del converted.info["icc_profile"]  # sRGB is what a picture without a profile is in
    return converted


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def pixel_digest(image: Image.Image) -> str:
    """16 hexadecimal digits of the SHA-256 of size and pixels: equal for equal pictures in any file format."""
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
    return image.crop(tuple(crop)).resize((image_size, image_size), Image.Resampling.LANCZOS)
