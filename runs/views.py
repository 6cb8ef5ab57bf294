"""More views of the training photos of a prepared dataset: squares smaller and elsewhere.

usage: python runs/views.py SOURCE PREPARED OUT [--views 2] [--seed 423432]

SOURCE: the photos, in the layout of the Kaggle set. PREPARED: what `animal-ldm prepare` made of them.
OUT: a copy of PREPARED whose training split has `--views` more squares of every photo, with the captions of the photo.
A square has 0.85 to 1 of the side of the prepared one, within a tenth of the side of its place. The validation split
is the same. Near duplicates by design: for training alone, not for `evaluate` or `push`.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from tqdm import tqdm

from animal_ldm.data.photos import Box, center_square, open_photo, pixel_digest, scale_square, square_around
from animal_ldm.data.processing import read_boxes
from animal_ldm.data.sources import open_source


def moved(square: Box, width: int, height: int, draw: random.Random) -> Box:
    """A square within the photo, near `square`."""
    whole = square.right - square.left
    side = round(whole * draw.uniform(0.85, 1))
    x, y = (
        min(max(round(start + (whole - side) / 2 + draw.uniform(-0.1, 0.1) * whole), 0), size - side)
        for start, size in ((square.left, width), (square.top, height))
    )
    return Box(x, y, x + side, y + side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--seed", type=int, default=423432)
    arguments = parser.parse_args()

    settings = json.loads((arguments.prepared / "preparation_report.json").read_text())["arguments"]
    shutil.copytree(arguments.prepared, arguments.out)
    metadata = arguments.out / "train" / "metadata.jsonl"
    lines = {Path(line["file_name"]).stem: line for line in map(json.loads, metadata.read_text().splitlines())}
    source = open_source(str(arguments.source))
    more = []
    for photo in tqdm(source.photos):
        image, _ = open_photo(source.reader.photo_bytes(photo))
        line = lines.pop(pixel_digest(image), None)
        if line is None:
            continue
        boxes = read_boxes(source.reader.label_file(photo), photo.label, image)[0] if settings["crop"] == "box" else []
        size = settings["image_size"]
        square = square_around(boxes, *image.size, settings["margin"], size) if boxes else center_square(*image.size)
        file = Path(line["file_name"])
        draw = random.Random(f"{arguments.seed} {file}")
        for view in range(1, arguments.views + 1):
            name = f"{file.with_suffix('')}-{view}.png"
            scale_square(image, moved(square, *image.size, draw), size).save(metadata.parent / name)
            more.append(line | {"file_name": name})
    if lines:
        raise SystemExit(f"{len(lines)} prepared photos are not in {arguments.source}, such as {next(iter(lines))}.")
    with metadata.open("a") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in more)


if __name__ == "__main__":
    main()
