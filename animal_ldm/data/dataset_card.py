"""The card of a prepared dataset, and the sheet of photos on it. All prose is in `dataset_card_template.md`."""

import re
from io import BytesIO
from pathlib import Path

from huggingface_hub import DatasetCardData
from PIL import Image, ImageDraw, ImageFont

from ..markdown import Markdown, one_line, render
from .records import SKIP_REASONS
from .report import PreparationReport

TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
CAPTIONERS_TEMPLATE = Path(__file__).with_name("captioners_template.md")

# The section on captioners, wherever somebody has moved it in the card.
CAPTIONERS = re.compile("<!-- captioners -->.*?<!-- end of captioners -->\n", re.DOTALL)

SHEET_COLUMNS = 8
SHEET_ROWS = 60  # classes; a JPEG cannot be higher than 65,535 pixels
SHEET_SIDE = 96  # pixels of a photo
SHEET_TITLE = 22  # pixels of the line above a class

# Upper bound of the number of photos -> the Hub's name for it.
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


def dataset_card(report: PreparationReport) -> str:
    """The card's Markdown."""
    train = {name: counts.train for name, counts in report.classes.items()}
    splits = [split for split, photos in (("train", report.train), ("validation", report.validation)) if photos]
    metadata = DatasetCardData(
        license=one_line(report.arguments.license or "unknown"),
        # The templates' language; what others wrote may be in any.
        language=["en"] if report.captions.templates and not (report.captions.own or report.captioners) else None,
        task_categories=["text-to-image"],
        size_categories=[size_category(report.train + report.validation)],
        pretty_name=f"{one_line(report.source)}, prepared at {report.arguments.image_size} px",
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/**"} for split in splits],
            }
        ],
    )
    return render(
        TEMPLATE.read_text(encoding="utf-8"),
        metadata=Markdown(metadata.to_yaml()),
        skip_reasons=SKIP_REASONS,
        largest=max(train, key=lambda name: train[name]),
        smallest=min(train, key=lambda name: train[name]),
        report=report,
        captioners=Markdown(captioners_section(report) + "\n" if report.captioners else ""),
    )


def captioners_section(report: PreparationReport) -> str:
    """The Markdown about the models that wrote captions."""
    return render(
        CAPTIONERS_TEMPLATE.read_text(encoding="utf-8"), captioners=report.captioners, number=Markdown("{:,}").format
    )


def add_captioners(card: str, report: PreparationReport) -> str:
    """A card that somebody has edited, with the section on captioners replaced or, if it has none, at its end."""
    section = captioners_section(report)
    if CAPTIONERS.search(card):
        return CAPTIONERS.sub(lambda _: section, card)
    return card.rstrip("\n") + "\n\n" + section


def size_category(number: int) -> str:
    return next((name for bound, name in SIZE_CATEGORIES.items() if number < bound), "n>1M")


def contact_sheet(photos_by_class: dict[str, list[Path]]) -> bytes:
    """A JPEG with a row of photos per class, below the class's name."""
    rows = list(photos_by_class.items())[:SHEET_ROWS]
    row_height = SHEET_SIDE + SHEET_TITLE
    sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_SIDE, len(rows) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for row, (label, photos) in enumerate(rows):
        draw.text((4, row * row_height + 3), label, fill="black", font=font)
        for column, photo in enumerate(photos[:SHEET_COLUMNS]):
            with Image.open(photo) as image:
                tile = image.resize((SHEET_SIDE, SHEET_SIDE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * SHEET_SIDE, row * row_height + SHEET_TITLE))
    encoded = BytesIO()
    sheet.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()
