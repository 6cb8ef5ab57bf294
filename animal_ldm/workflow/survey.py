"""A first look at the photos, before anything is decided: how many of which classes, how large, with captions?"""

import io
import statistics
from collections import Counter
from dataclasses import dataclass

from PIL import Image

from ..data.prepare import list_fingerprint
from ..data.sources import open_source

# Photos whose size is read; as many are enough for a median.
OPENED = 64


@dataclass(frozen=True)
class Survey:
    """What a source of photos holds.

    Attributes:
        photos: number of photos.
        classes: photos of each class, the most common first; "" for photos without one.
        captioned: photos with captions of their own.
        short_side: median of the shorter side in pixels, over some of the photos; None if none of these can be opened.
        fingerprint: changes when a photo or a caption does (`data.prepare.list_fingerprint`).
    """

    photos: int
    classes: dict[str, int]
    captioned: int
    short_side: float | None
    fingerprint: str

    @property
    def balanced(self) -> bool:
        """Whether the largest class has at most one and a half times the photos of the smallest."""
        return max(self.classes.values()) <= 1.5 * min(self.classes.values())


def survey(source_name: str) -> Survey:
    """Look at the photos of `source_name`, a folder or a dataset's name.

    Raises:
        InputError: it is not a source of photos.
    """
    source = open_source(source_name)
    sides = []
    for photo in source.photos[:: -(-len(source.photos) // OPENED)]:
        try:
            with Image.open(io.BytesIO(source.reader.photo_bytes(photo))) as image:
                sides.append(min(image.size))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # `prepare` names the photos that cannot be used
    return Survey(
        photos=len(source.photos),
        classes=dict(Counter(photo.label for photo in source.photos).most_common()),
        captioned=sum(bool(photo.texts) for photo in source.photos),
        short_side=statistics.median(sides) if sides else None,
        fingerprint=list_fingerprint(source.photos),
    )
