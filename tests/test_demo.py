"""The demo's page: the real gradio app on loopback with a tiny pipeline, asked by gradio's client and in Chromium."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from gradio_client import Client
from gradio_client.utils import Status
from PIL import Image

from animal_ldm import AnimalLDMPipeline, cli, demo
from animal_ldm.commands import generate
from animal_ldm.loading import store_sampling_defaults
from animal_ldm.pipeline_animal_ldm import SAMPLING_DEFAULTS
from animal_ldm.sampling import Sampling

from .webpage import EVIL, Visit

CARD = """---
license: unlicense
widget:
- text: a zebra
  output:
    url: samples/00-zebra.png
- text: an elephant
  output:
    url: samples/01-elephant.png
---

# Model Card

## Evaluation

### Results

| metric | this model |
|---|---:|
| precision, k=10 | 0.875 |

The samples:

![Samples](evaluation/squeeze%20net/samples.png)

#### Summary

One number was measured.

## Environmental Impact

Little.
"""


@pytest.fixture(scope="module")
def carded(tiny_pipeline_folder, tmp_path_factory) -> Path:
    """The tiny pipeline's folder, published: with a card and its images."""
    folder = tmp_path_factory.mktemp("published") / "tiny"
    shutil.copytree(tiny_pipeline_folder, folder)
    (folder / "README.md").write_text(CARD)
    captions = {
        "examples": ["a black zebra, close-up"],
        "words": {"colour": ["white", "orange"], "framing": ["close-up"]},
    }
    (folder / "training_report.json").write_text(json.dumps({"captions": captions}))
    for name in ("samples/00-zebra.png", "samples/01-elephant.png", "evaluation/squeeze net/samples.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / name)
    return folder


REPORT = """<!doctype html><html lang="en"><title>Report</title>
<h1>A report</h1><p><a href="#end">To the end</a></p><div style="height: 3000px"></div><h2 id="end">The end</h2>
<img src="https://example.org/spy.png" alt=""><link rel="stylesheet" href="https://example.org/spy.css">
<script>document.querySelector("h1").textContent = parent.document.title</script>
"""


@pytest.fixture(scope="module")
def reported(carded, tmp_path_factory) -> Path:
    """The same with the page of an evaluation, which cannot be trusted."""
    folder = tmp_path_factory.mktemp("reported") / "tiny"
    shutil.copytree(carded, folder)
    (folder / "evaluation/squeeze net/report.html").write_text(REPORT)
    return folder


@pytest.fixture(scope="module")
def page_url(carded):
    """Where the page is served, by the components as a Space loads them."""
    card = demo.read_card(str(carded))
    prompts = [prompt for _, prompt in card.samples]
    words = demo.read_captions(str(carded)).words
    page = demo.build_page(StableDiffusionPipeline.from_pretrained(carded), "tiny", prompts, card, words)
    yield demo.start(page)
    page.close()


def connect(page_url: str) -> Client:
    return Client(page_url, verbose=False, httpx_kwargs={"timeout": 60})


@pytest.fixture
def client(page_url) -> Client:
    return connect(page_url)


def ask(prompt="a zebra", number=2, seed=5, guidance=3.0, steps=2) -> dict:
    return {"prompt": prompt, "number": number, "seed": seed, "guidance": guidance, "steps": steps}


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_page_and_command_generate_the_same(client, tiny_pipeline_folder, tmp_path):
    gallery, used = client.predict(**ask(number=3), api_name="/generate")
    options = ["--number", "3", "--seed", "5", "--steps", "2", "--guidance", "3", "--separate", "--device", "cpu"]
    generate.main(["a zebra", "--model", tiny_pipeline_folder, "--out", str(tmp_path / "zebra.png"), *options])
    files = [shown["image"] for shown in gallery]
    assert [shown["caption"] for shown in gallery] == ["seed 5", "seed 6", "seed 7"]
    assert used == "“a zebra” · seeds 5 to 7 · guidance 3 · 2 steps"
    for i, file in enumerate(files):
        assert abs(pixels(file) - pixels(tmp_path / f"zebra-{i:03}.png")).max() <= 1
    assert abs(pixels(files[0]) - pixels(files[1])).max() > 10


def test_a_downloaded_image_says_how_to_generate_it_again(client):
    (_, shown), _ = client.predict(**ask(guidance=2.5), api_name="/generate")
    assert Path(shown["image"]).name == "a-zebra-6.png"
    text = Image.open(shown["image"]).text
    assert text == {
        "prompt": "a zebra",
        "model": "tiny",
        "num_inference_steps": "2",
        "guidance_scale": "2.5",
        "seed": "6",
    }
    ((again,), _) = client.predict(**ask(number=1, seed=6, guidance=2.5), api_name="/generate")
    assert abs(pixels(again["image"]) - pixels(shown["image"])).max() <= 1


def test_a_prompt_is_shown_as_text(client):
    _, used = client.predict(**ask(prompt="<b>zebra</b>"), api_name="/generate")
    assert "&lt;b&gt;zebra&lt;/b&gt;" in used


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": ""}, "Please write a prompt"),
        ({"prompt": "  \n"}, "Please write a prompt"),
        ({"prompt": "a zebra and another one of them"}, "Too long: the model would ignore “hem” at the end"),
        ({"seed": None}, "whole number from 0 to 4,294,967,295"),
        ({"seed": -1}, "whole number"),
        ({"seed": 1.5}, "whole number"),
        ({"seed": 2**32}, "whole number"),
        ({"number": 9}, "number: This must be a whole number from 1 to 8."),
        ({"steps": 0}, "steps: This must be a whole number from 1 to 100."),
        ({"steps": 2.5}, "whole number"),
        ({"guidance": 99}, "guidance: This must be a number from 1 to 10."),
        ({"guidance": "3"}, "guidance: This must be a number"),
        ({"guidance": True}, "guidance: This must be a number"),
        ({"number": 10**9}, "number: This must be a whole number from 1 to 8."),
        ({"number": [1]}, "number: This must be a whole number"),
        ({"steps": 10**9}, "steps: This must be a whole number from 1 to 100."),
        ({"steps": 10**300}, "steps: This must be a whole number from 1 to 100."),
        ({"seed": 10**30}, "whole number"),
        ({"prompt": ["a zebra"]}, "Please write a prompt"),
        ({"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "."),
        ({"prompt": "z" * 10_000}, "at most 1000 characters"),
        ({"prompt": "a \x00zebra"}, "not text"),
    ],
)
def test_bad_input_gets_a_message(client, wrong, message):
    with pytest.raises(Exception, match=message) as caught:
        client.predict(**ask(**wrong), api_name="/generate")
    assert "Traceback" not in str(caught.value)


def post(page_url: str, path: str, data: object, **headers: str) -> httpx2.Response:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return httpx2.post(
        f"{page_url}gradio_api/{path}", content=body, headers={"Content-Type": "application/json"} | headers
    )


def join(page_url: str, data: str = '["", 1, 0, 3, 2]', **headers: str) -> httpx2.Response:
    """Ask as the page does, with `data` as JSON in full; without a prompt by default."""
    functions = httpx2.get(f"{page_url}config", timeout=60).json()["dependencies"]
    (number,) = (function["id"] for function in functions if function["api_name"] == "generate")
    body = f'{{"data": {data}, "fn_index": {number}, "session_hash": "x"}}'
    return post(page_url, "queue/join", body.encode(), **headers)


@pytest.mark.parametrize("prompt", ['"a zebra"', r'"a \ud800zebra"', "null", "[[]]"])
@pytest.mark.parametrize("guidance", ["NaN", "-Infinity", "1e999", "null", '"3"'])
def test_values_that_no_field_gives(page_url, prompt, guidance):
    answer = join(page_url, f"[{prompt}, 1, 0, {guidance}, 2]")
    assert answer.status_code == 422
    assert "This must be a number from 1 to 10" in answer.text or "JSON" in answer.text


def test_requests_that_pass_by_the_queue(page_url):
    assert post(page_url, "run/generate", {"data": ["a zebra", 1, 0, 3, 2]}).status_code == 404
    assert post(page_url, "api/generate", {"data": ["a zebra", 1, 0, 3, 2]}).status_code == 404


def test_large_requests_and_uploads_are_refused(page_url, tmp_path):
    assert post(page_url, "queue/join", {"data": ["z" * 1_000_000, 1, 0, 3, 2]}).status_code == 413
    files = {"files": ("x.png", b"x", "image/png")}
    assert httpx2.post(f"{page_url}gradio_api/upload", files=files, timeout=60).status_code == 403


FILES = [
    "/etc/passwd",
    "/proc/self/environ",
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "pyproject.toml",
]


@pytest.mark.parametrize(
    "file", [*FILES, "MODEL/model_index.json", "MODEL/README.md", "MODEL/unet/config.json", demo.__file__]
)
def test_no_file_of_the_machine_is_served(page_url, carded, file):
    for path in ("gradio_api/file=", "file=", "static/", "assets/", "gradio_api/stream/", "gradio_api/proxy=file://"):
        answer = httpx2.get(page_url + path + file.replace("MODEL", str(carded)), follow_redirects=True, timeout=60)
        assert answer.status_code >= 400 or "gradio_config" in answer.text
        for content in ("root:", "PATH=", "_class_name", "license: unlicense", "[build-system]", "def build_page"):
            assert content not in answer.text


def test_a_user_may_ask_so_often_in_a_minute(tiny_pipeline_folder, monkeypatch):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    page = demo.build_page(pipeline, "tiny", [], demo.Card([], []))
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: 600.0))
    url = demo.start(page, per_minute=3)
    assert [join(url).status_code for _ in range(5)] == [422, 422, 422, 429, 429]
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: 660.0))
    assert join(url).status_code == 422
    page.close()


def test_who_the_user_of_a_space_is(monkeypatch):
    gate = demo.Gate(lambda *_: None, per_minute=3)

    def passes(forwarded: str) -> bool:
        headers = [(b"x-forwarded-for", forwarded.encode()), (b"content-length", b"9")]
        return not gate.refusal({"path": "/gradio_api/queue/join/", "headers": headers, "client": ("10.0.0.1", 1)})

    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: 600.0))
    assert [passes(str(i)) for i in range(4)] == [True, True, True, False]  # anybody may send this header
    monkeypatch.setenv("SPACE_ID", "user/demo")  # whose proxy sends it
    assert [passes(f"{i // 4}, 10.0.0.1") for i in range(8)] == [True, True, True, False] * 2


HOSTILE_CARD = """---
widget:
- text: <img src=x onerror="window.pwned=1">
  output:
    url: samples/00-zebra.png
- text: a secret
  output:
    url: ../../secret.png
- text: another
  output:
    url: OUTSIDE/secret.png
- text: a link
  output:
    url: samples/link.png
- text: no image
  output:
    url: model_index.json
- text: [1, 2]
- 3
- output: null
---

### Results

<script>window.pwned=1</script> <img src=x onerror="window.pwned=1"> <iframe src="http://example.org"></iframe>
\\<b>bold\\</b> [a link](javascript:alert(1)) [another][1] https://example.org www.example.org me@example.org $$x$$

[1]: https://example.org

| class | share |
|---|---:|
| <svg onload="window.pwned=1"> | 0.875 |

![Plot](samples/00-zebra.png) ![Secret](OUTSIDE/secret.png) ![Secret](../../secret.png)
![Secret](/etc/passwd) ![Secret](samples/link.png) ![Remote](https://example.org/x.png)
"""


@pytest.fixture(scope="module")
def hostile(carded, tmp_path_factory) -> Path:
    """A model's folder whose card and names mean harm."""
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (8, 8)).save(outside / "secret.png")
    folder = outside / "models" / "hostile"
    shutil.copytree(carded, folder)
    (folder / "samples/link.png").symlink_to(outside / "secret.png")
    (folder / "README.md").write_text(HOSTILE_CARD.replace("OUTSIDE", str(outside)))
    return folder


def test_a_hostile_card_is_inert(hostile):
    card = demo.read_card(str(hostile))
    image = str(hostile / "samples/00-zebra.png")
    assert card.samples == [(image, '<img src=x onerror="window.pwned=1">')]
    assert {shown for _, shown in card.results} == {image, None}  # nothing from outside the folder
    shown = "".join(text for text, _ in card.results if text)
    assert not re.search(r"[<\[@]|://|www\.", shown)
    assert "| 0.875 |" in shown


def test_cards_that_are_not_cards(carded, tmp_path):
    for number, text in enumerate(
        ["", "---\nwidget: 3\n---\n", "---\n[: {\n---\n", "---\n- a\n---\n", "### Results\n![](x)"]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "README.md").write_text(text)
        assert demo.read_card(str(folder)).samples == []


def test_users_take_turns(page_url):
    """While one generates, the other sees its position; both get their own images."""
    first, second = (connect(page_url) for _ in range(2))
    generating = first.submit(**ask(number=8, steps=100), api_name="/generate")
    while generating.status().code < Status.PROGRESS:
        time.sleep(0.01)
    waiting = second.submit(**ask(prompt="a lion", number=1), api_name="/generate")
    places, steps = set(), set()
    while not waiting.done():
        if (status := waiting.status()).code == Status.IN_QUEUE and not generating.done():
            places.add(status.rank)
        steps |= {unit.desc for unit in generating.status().progress_data or ()}
        time.sleep(0.01)
    assert 0 in places
    assert any(step.startswith("step ") and step.endswith(" of 100") for step in steps)
    assert len(generating.result()[0]) == 8
    assert "a lion" in waiting.result()[1]


def test_defaults_are_the_pipelines(client):
    (endpoint,) = client.view_api(return_format="dict")["named_endpoints"].values()
    defaults = {shown["label"]: shown["parameter_default"] for shown in endpoint["parameters"]}
    (guidance,) = (value for label, value in defaults.items() if label.startswith("Guidance"))
    (steps,) = (value for label, value in defaults.items() if label.startswith("Steps"))
    assert guidance == SAMPLING_DEFAULTS["guidance_scale"]
    assert steps == SAMPLING_DEFAULTS["num_inference_steps"]


def test_defaults_are_those_stored_with_the_model(carded, tmp_path):
    """The interval and perturbed attention are for the package's own class alone: diffusers' has none."""
    folder = tmp_path / "tuned"
    shutil.copytree(carded, folder)
    tuned = Sampling(
        num_inference_steps=40, guidance_scale=1.5, guidance_rescale=0.35, guidance_interval=(0.2, 1.0), pag_scale=2.0
    )
    store_sampling_defaults(folder, tuned, AnimalLDMPipeline.from_pretrained(folder).scheduler)
    whole = demo.sampling_defaults(AnimalLDMPipeline.from_pretrained(folder))
    assert whole == json.loads(json.dumps(asdict(tuned)))
    plain = demo.sampling_defaults(StableDiffusionPipeline.from_pretrained(folder))
    own = ("guidance_interval", "pag_scale", "pag_applied_layers")
    assert plain == {name: value for name, value in whole.items() if name not in own}


def test_the_card_is_read(carded, tiny_pipeline_folder):
    card = demo.read_card(str(carded))
    assert [(Path(file).name, prompt) for file, prompt in card.samples] == [
        ("00-zebra.png", "a zebra"),
        ("01-elephant.png", "an elephant"),
    ]
    (before, image), (after, none) = card.results
    assert "0.875" in before and "Model Card" not in before
    assert Path(image).is_file() and none is None
    assert "One number was measured." in after and "Little" not in after
    assert demo.read_card(tiny_pipeline_folder) == demo.Card([], [])


def test_captions_are_read(carded, tiny_pipeline_folder, tmp_path):
    captions = demo.read_captions(str(carded))
    assert captions.examples == ["a black zebra, close-up"]
    assert captions.words == {"colour": ["white", "orange"], "background": [], "framing": ["close-up"]}
    assert demo.read_captions(tiny_pipeline_folder) == demo.Captions([], {})
    for content in ("", "[]", "{}", '{"captions": 3}', '{"captions": {"examples": [], "words": []}}'):
        (tmp_path / "training_report.json").write_text(content)
        assert demo.read_captions(str(tmp_path)) == demo.Captions([], {})


@pytest.mark.parametrize(
    ("prompt", "kind", "word", "expected"),
    [
        ("a zebra", "colour", "orange", "an orange zebra"),
        ("an elephant", "colour", "white", "a white elephant"),
        ("a photo of a black and white cat, close-up", "colour", "black", "a photo of a black cat, close-up"),
        ("two black zebras on a blue background", "colour", "white", "two white zebras on a blue background"),
        ("zebras", "colour", "white", "white zebras"),
        ("a zebra", "background", "orange", "a zebra on an orange background"),
        ("a zebra on a blue background, from afar", "background", "green", "a zebra on a green background, from afar"),
        ("a zebra", "framing", "close-up", "a zebra, close-up"),
        ("a zebra, close-up", "framing", "from afar", "a zebra, from afar"),
    ],
)
def test_words_are_added_to_the_prompt(prompt, kind, word, expected):
    known = {
        "colour": ["black", "white", "orange", "black and white"],
        "background": ["blue", "green", "orange"],
        "framing": ["close-up", "from afar"],
    }[kind]
    assert demo.with_word(prompt, kind, word, known) == expected
    assert demo.with_word(expected, kind, word, known) == expected  # twice is once


def test_without_gradio(tmp_path):
    code = "import sys; sys.modules['gradio'] = None; from animal_ldm import cli; cli.main(['demo', 'model'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr == "error: The page needs gradio, which is not installed: pip install 'animal-ldm[demo]'.\n"


def test_a_port_in_use(tiny_pipeline_folder, capsys):
    with socket.socket() as taken, pytest.raises(SystemExit) as caught:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cli.main(["demo", tiny_pipeline_folder, "--device", "cpu", "--port", str(port)])
    assert caught.value.code == 2
    assert f"error: The page cannot be served on --port {port}" in capsys.readouterr().err


def test_no_such_model(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", str(tmp_path / "nothing")])
    assert caught.value.code == 2
    assert "there is no folder" in capsys.readouterr().err


def test_reports_are_shown_in_place_of_the_results(reported, carded):
    assert demo.read_card(str(carded)).reports == ()
    card = demo.read_card(str(reported))
    assert card.reports == (REPORT,)
    assert card.results  # of the card too
    page = demo.build_page(StableDiffusionPipeline.from_pretrained(reported), "tiny", [], card)
    values = [part["props"].get("value") for part in page.get_config_file()["components"]]
    [frame] = [value for value in values if isinstance(value, str) and "<iframe" in value]
    assert "<script" not in frame
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in frame
    assert not any("0.875" in str(value) for value in values)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_the_browser(browser, page_url, width):
    def button(name: str):
        return page.get_by_role("button", name=name, exact=True)

    def overflow() -> int:
        return page.evaluate("document.documentElement.scrollWidth") - width

    page = browser.new_page(viewport={"width": width, "height": 844})
    page.set_default_timeout(60_000)
    asked, broken = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(error))
    page.goto(page_url)

    button("Generate").click()
    page.get_by_text("Please write a prompt.").wait_for()
    button("an elephant").click()
    prompt_field = page.get_by_label("Prompt", exact=True)
    assert prompt_field.input_value() == "an elephant"
    button("orange").click()
    page.wait_for_function("input => input.value === 'an orange elephant'", arg=prompt_field.element_handle())
    button("an elephant").click()
    seed = page.get_by_label("Seed", exact=True)
    button("⚄ Roll").click()
    page.wait_for_function("input => input.value !== '0'", arg=seed.element_handle())
    rolled = int(seed.input_value())
    assert 0 < rolled < 2**32

    button("Generate").click()
    page.get_by_text(f"seed {rolled + 3}", exact=True).wait_for()
    assert page.get_by_text("Please write a prompt.").count() == 0
    assert overflow() <= 0
    page.locator("#images .grid-container button").first.click()
    with page.expect_download() as download:
        page.get_by_label("Download", exact=True).first.click()
    assert download.value.suggested_filename == f"an-elephant-{rolled}.png"

    page.get_by_role("tab", name="Results").click()
    page.get_by_role("cell", name="0.875").wait_for()
    image = page.get_by_role("tabpanel").locator("img").last
    image.scroll_into_view_if_needed()
    page.wait_for_function("image => image.naturalWidth === 16", arg=image.element_handle())
    assert overflow() <= 0
    assert not broken
    assert {url for url in asked if not url.startswith((page_url, "data:", "blob:"))} == set()


@pytest.mark.slow
def test_a_hostile_model_in_the_browser(browser, hostile, tmp_path):
    """Neither its card, its name, its classes, its captions nor a user's prompt becomes more than text."""
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(hostile, folder, symlinks=True)
    classes = [EVIL, "<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "[a](javascript:alert(1))"]
    classes += ["\u2028'\"`${window.pwned=1}", "../../zebra"]
    index = json.loads((folder / "model_index.json").read_text())
    index["classes"] = {name: number for number, name in enumerate(classes)}
    (folder / "model_index.json").write_text(json.dumps(index))
    captions = {"examples": [f"a zebra {EVIL}"], "words": {"colour": [EVIL], "background": [EVIL]}}
    (folder / "training_report.json").write_text(json.dumps({"captions": captions}))
    command = [sys.executable, "-u", "-m", "animal_ldm", "demo", str(folder), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(demo.__file__).parents[1]) as served:
        try:
            visit = Visit(browser, served.stdout.readline().removeprefix("The page is at ").strip())
            page = visit.page
            page.get_by_role("button", name="Generate", exact=True).wait_for()
            prompt = page.locator("#prompt textarea")  # its label holds the message too
            for word in page.locator("#words button").all():
                word.click()
            prompt.fill(EVIL)
            prompt.press("Enter")
            page.get_by_text("Too long").first.wait_for()
            prompt.fill("<img src=x>")
            prompt.press("Enter")
            page.get_by_text("seed 3", exact=True).wait_for()
            assert "<img src=x>" in page.locator("#settings-used").inner_text()
            page.get_by_role("tab", name="Results").click()
            page.get_by_role("cell", name="0.875").wait_for()
            assert page.locator(".results :is(a, script, iframe, svg, b)").count() == 0
            visit.check()
        finally:
            served.terminate()


@pytest.mark.slow
def test_waiting_in_the_browser(browser, page_url):
    """A user who comes second sees the position in the queue, then the images."""
    other = connect(page_url).submit(**ask(number=8, steps=100), api_name="/generate")
    page = browser.new_page()
    page.goto(page_url)
    others = [connect(page_url).submit(**ask(number=8, steps=100), api_name="/generate") for _ in range(3)]
    page.get_by_label("Prompt", exact=True).fill("a lion")
    page.get_by_label("Prompt", exact=True).press("Enter")
    page.get_by_text("queue:").wait_for(timeout=60_000)
    page.get_by_text("seed 3", exact=True).wait_for(timeout=60_000)
    assert all(len(job.result()[0]) == 8 for job in [other, *others])


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_in_the_browser_cannot_leave_its_frame(browser, reported, width):
    card = demo.read_card(str(reported))
    served = demo.build_page(StableDiffusionPipeline.from_pretrained(reported), "tiny", ["a lion"], card)
    url = demo.start(served)
    visit = Visit(browser, url, viewport={"width": width, "height": 844})
    page = visit.page
    page.get_by_role("tab", name="Results").click()
    frame = page.frame_locator(".report iframe")
    frame.get_by_role("heading", name="A report").wait_for(timeout=60_000)
    frame.get_by_role("link", name="To the end").click()
    page.wait_for_timeout(500)
    assert frame.get_by_role("heading", name="A report").count() == 1  # still there, and no script has changed it
    assert frame.get_by_role("heading", name="The end").evaluate("end => end.getBoundingClientRect().top") < 844
    visit.check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    served.close()
