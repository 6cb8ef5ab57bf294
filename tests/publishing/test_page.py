"""The demo's page finds in the published card what it shows of it."""

from pathlib import Path

import pytest

from animal_ldm.data.captions import with_article

from ..conftest import TINY_CLASSES
from .test_staging import stage

demo = pytest.importorskip("animal_ldm.demo", reason="needs gradio")


def test_the_page_reads_the_published_card(model, evaluation, tmp_path, no_smoke_test):
    out = tmp_path / "staged"
    stage(model, out, results=[evaluation])
    card = demo.read_card(str(out))
    assert [prompt for _, prompt in card.samples] == [with_article(name) for name in TINY_CLASSES]
    assert "precision" in card.results[0][0]
    pictures = [picture for _, picture in card.results if picture]
    assert "precision_recall.png" in [Path(picture).name for picture in pictures]
    assert all(Path(file).is_file() for file in [*pictures, *(file for file, _ in card.samples)])
