"""training.html: what it shows of a run in progress, of a finished one, and of texts that are not HTML."""

import pytest
from PIL import Image

from animal_ldm.training.page import MOST_FRAMES, duration, write_page
from tests.webpage import EVIL, Page, Visit


@pytest.fixture
def report() -> dict:
    """Of a run in progress, as `Run.report` gives it."""
    return {
        "arguments": {"data": "photos", "learning_rate": 1e-4, "compile": False},
        "identity": {"data": "ab" * 32},
        "images_seen": 400,
        "wall_time_seconds": 120.0,
        "energy_kwh": "not measured",
        "co2_kg": 0.0025,
        "co2_source": "codecarbon",
        "stretches": [{"from_image": 0, "to_image": 400, "seconds": 120.0, "energy_kwh": None, "co2_kg": 0.0025}],
        "hardware": {"cpu": "A CPU", "gpus": []},
        "versions": {"python": "3.11"},
        "history": [{"images_seen": i, "train/loss": 1 / (1 + i)} for i in range(400)]
        + [{"images_seen": i, "validation/loss": 1 - i / 1000, "novelty": None} for i in (200, 400)],
    }


def page_of(report, folder, total: int | None) -> Page:
    write_page(report, total, folder)
    page = Page(folder / "training.html")
    page.check()
    return page


def test_run_in_progress(report, tmp_path):
    text = " ".join(page_of(report, tmp_path, 1600).text.split())
    assert "400 of 1,600 images in 2 min 0 s, about 6 min 0 s left" in text
    assert "2.5 g" in text
    assert "not measured" in text


def test_run_whose_length_is_not_known_yet(report, tmp_path):
    text = " ".join(page_of(report, tmp_path, None).text.split())
    assert "400 images in 2 min 0 s. This page" in text


def test_finished_run(report, tmp_path):
    page = page_of(report, tmp_path, 400)
    assert "Finished after 400 images" in page.text
    assert "left" not in page.text
    charts = [drawing["aria-label"] for drawing in page.all("svg") if drawing.get("role") == "img"]
    assert [chart.split(".")[0] for chart in charts] == ["Training loss", "Validation loss"]
    assert "0.8 at 200, 0.6 at 400" in charts[1]


def test_slider_holds_frames_from_start_to_end(report, tmp_path):
    (tmp_path / "samples").mkdir()
    for seen in range(100, 4100, 100):
        Image.new("RGB", (8, 16), (seen % 256, 0, 0)).save(tmp_path / f"samples/samples-{seen:010d}.png")
    page = page_of(report, tmp_path, 400)
    alts = [image["alt"] for image in page.all("img")]
    assert len(alts) == MOST_FRAMES
    assert alts[0] == "Images after 100 training images"
    assert alts[-1] == "Images after 4,000 training images"
    [slider] = page.all("input")
    assert slider["max"] == str(MOST_FRAMES - 1)


@pytest.fixture
def hostile_page(report, tmp_path) -> Page:
    report |= {"arguments": {EVIL: EVIL}, "classes": [EVIL], "hardware": {"cpu": EVIL}, "co2_source": EVIL}
    report["history"] += [{"images_seen": i, EVIL: float(i)} for i in (1, 2)]
    return page_of(report, tmp_path, 400)


def test_texts_are_inert(hostile_page):
    assert not hostile_page.all("img")
    assert EVIL in hostile_page.text


@pytest.mark.slow
def test_a_hostile_page_in_the_browser(browser, hostile_page, tmp_path):
    visit = Visit(browser, (tmp_path / "training.html").as_uri())
    assert "window.pwned=1" in visit.page.text_content("body")
    visit.check()


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3 s"), (150, "2 min 30 s"), (9429, "2 h 37 min")])
def test_duration(seconds, words):
    assert duration(seconds) == words
