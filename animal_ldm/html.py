"""Web pages that are one file, from templates with escaped values. All HTML reports are made with it.

A page loads nothing: its Content-Security-Policy forbids every request, and every script that it does not name.
"""

import base64
import hashlib
import io

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from .charts import draw


def render_page(template: str, **values: object) -> str:
    """The page of `template`, a file in `animal_ldm/templates`, filled with `values`; every value is escaped.

    Raises:
        jinja2.UndefinedError: the template uses a name that `values` lacks.
    """
    environment = Environment(
        loader=PackageLoader("animal_ldm"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["draw"] = draw
    environment.globals["script_digest"] = script_digest
    return environment.get_template(template).render(values)


def script_digest(script: str) -> str:
    """What a Content-Security-Policy names an inline script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def data_uri(image: Image.Image | np.ndarray, longest: int, quality: int = 82) -> str:
    """The image within a URI, as WebP, no side longer than `longest` pixels.

    Args:
        image: if an array, uint8 RGB, (H, W, 3).
    """
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "webp", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
