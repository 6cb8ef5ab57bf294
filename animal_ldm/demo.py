"""A page that generates images, with the results from the model card on a second tab.

This one file is both the page of `animal-ldm demo` and, byte for byte, the `app.py` of a Space. A Space has no
`animal_ldm`, so the file imports only gradio (with starlette, which serves it), diffusers, torch and huggingface_hub
(diffusers needs transformers).

A Space consists of three files:
- `app.py`: this file.
- `README.md`: its metadata holds the usual fields of a gradio Space (`title`, `sdk: gradio`, `sdk_version`,
  `app_file: app.py`) and `models: [owner/name]`. The page generates with the first of `models`, which `animal-ldm
  push` published. The buttons are the prompts in that model's `widget`.
- `requirements.txt`: torch, diffusers and transformers in the versions that the model card asks for.

The page trusts neither users nor cards: it shows their texts as text, serves only images, and limits each user.
"""

import html
import inspect
import json
import os
import re
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub import ModelCard, SpaceCard, snapshot_download
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from yaml import YAMLError

# Where a model sets no defaults of its own. A Space loads it with diffusers' class, which has others.
DEFAULTS = {"num_inference_steps": 25, "guidance_scale": 3.0}

MOST_IMAGES = 8  # in one batch
MOST_STEPS = 100
MOST_GUIDANCE = 10.0
LARGEST_SEED = 2**32 - 1
WORD_KINDS = ("colour", "background", "framing")
MOST_WORDS = 6  # of a kind
LARGEST_REPORT = 20_000_000  # bytes
LONGEST_PROMPT = 1000  # characters; fewer than this many tokens are read anyway
MOST_PROMPTS, LONGEST_TITLE = 100, 80  # buttons; characters of one, and of the model's name
MOST_WAITING = 40  # requests in the queue; later ones are told that it is full
PER_MINUTE = 60  # requests of a user, counted by address

# Few of the fonts that come with gradio have Latin letters in more than one weight. None is fetched from elsewhere.
SANS = (gr.themes.LocalFont("Source Sans Pro", weights=(400,)), "system-ui", "sans-serif")

# fmt: off
SAGE = gr.themes.colors.Color(
    "#f3f6f0", "#e3eadc", "#c8d6bc", "#a5ba95", "#829d70", "#647f53",
    "#4d6540", "#3e5134", "#33412c", "#2a3625", "#151c12",
)
THEME = gr.themes.Base(
    primary_hue=SAGE,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    text_size=gr.themes.sizes.text_lg,
    font=SANS,
).set(
    body_background_fill="#faf7f1", body_background_fill_dark="#1b1917",
    background_fill_primary="#fffdf9", background_fill_primary_dark="#242120",
    block_background_fill="transparent", block_background_fill_dark="transparent",
    block_border_width="0px", block_border_width_dark="0px",
    block_padding="0px",
    block_title_text_weight="400",
    block_info_text_color="*neutral_500",
    border_color_primary="#e6dfd3", border_color_primary_dark="#3a3532",
    body_text_color="#2c2722", body_text_color_dark="#ece6dd",
    input_background_fill="#fffdf9", input_background_fill_dark="#242120",
    input_border_width="1px",
    input_border_color="#ddd4c5", input_border_color_dark="#45403b",
    input_padding="12px 14px",
    slider_color="*primary_500",
    button_large_text_weight="400",
    button_small_text_weight="400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_500",
    button_primary_background_fill_hover_dark="*primary_600",
    button_secondary_background_fill="#f1ebe0",
    button_secondary_background_fill_hover="#e7dece",
    button_secondary_background_fill_dark="#332f2b",
    button_secondary_background_fill_hover_dark="#413b36",
    button_secondary_text_color="*body_text_color",
)
# fmt: on

CSS = """
.gradio-container.gradio-container { width: 100%; max-width: 1160px; margin: 0 auto; padding: 0 24px 40px; }
.gradio-container.gradio-container :is(.main, .main > .wrap, main) { min-width: 0; width: 100%; padding: 0; }
.gradio-container .form { background: transparent; gap: 18px; }
.gradio-container .form, .form .block { overflow: visible; }
button[role="tab"][aria-selected="true"] { color: var(--body-text-color); }
#head { padding: 30px 0 6px; }
#head h1, .results .prose :is(h3, h4) {
  font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", P052, Georgia, serif;
  font-weight: 400;
}
#head h1 { font-size: 36px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
#head p { font-size: 18px; margin: 6px 0 0; opacity: .7; }
#board { display: grid; grid-template: auto 1fr / minmax(0, 2fr) minmax(0, 3fr); gap: 26px 32px; }
#ask { grid-area: 1 / 1; }
#settings { grid-area: 2 / 1; gap: 18px; }
#settings > .form .block { padding-bottom: 6px; }
#shown { grid-area: 1 / 2 / 3 / 3; }
#prompt textarea { font-size: 20px; }
#words { gap: 8px; flex-wrap: wrap; }
#attributes { gap: 6px; flex-wrap: wrap; }
#words button, #attributes button { flex: 0 0 auto; min-width: 0; width: auto; border-radius: 99px; }
#words button { padding: 7px 14px; font-size: 16px; }
#attributes button { padding: 4px 11px; font-size: 14px; }
#settings #seed .block { padding-bottom: 0; }
#seed { align-items: end; gap: 10px; flex-wrap: nowrap; }
#seed button { flex: 0 0 auto; width: auto; min-width: 0; height: 48px; padding: 0 18px; font-size: 16px; }
#images { overflow: visible; }
#images .grid-wrap { max-height: none; overflow: visible; padding: 0; }
#images .grid-container { gap: 12px; grid-template-columns: repeat(2, 1fr); grid-template-rows: none; }
#images .grid-container:has(> :only-child) { grid-template-columns: 1fr; }
#images .grid-container:has(> :nth-child(5)) { grid-template-columns: repeat(3, 1fr); }
#images .grid-container:has(> :nth-child(9)) { grid-template-columns: repeat(4, 1fr); }
#images .empty { min-height: 420px; border: 1px dashed var(--border-color-primary); border-radius: 12px; }
#images .icon-button-wrapper { background: var(--background-fill-primary); }
#images .wrap.full:not(.hide) { background: color-mix(in srgb, var(--body-background-fill) 88%, transparent); }
#images .wrap.full, #images .wrap.full * { font-family: var(--font); font-size: 17px; }
#settings-used { text-align: center; opacity: .75; overflow-wrap: anywhere; }
.report iframe {
  display: block; width: 100%; height: max(480px, 82vh); border: 1px solid var(--border-color-primary);
  border-radius: 12px;
}
.results { min-width: 0; }
.results .prose table { display: block; max-width: 100%; overflow-x: auto; margin: 14px 0; border: 0; font-size: 15px }
.results .prose tr { border: 0; }
.results .prose :is(th, td) {
  padding: 7px 16px 7px 0; border: 0; border-bottom: 1px solid var(--border-color-primary);
  overflow-wrap: normal; word-break: normal;
}
@media (max-width: 640px) {
  .gradio-container.gradio-container { padding: 0 16px 28px; }
  #head { padding-top: 16px; }
  #head h1 { font-size: 28px; }
  #board { grid-template: auto / minmax(0, 1fr); }
  #board > * { grid-area: auto; }
  #images#images .grid-container:has(> :nth-child(2)) { grid-template-columns: repeat(2, 1fr); }
  #images#images .grid-container:has(> :nth-child(9)) { grid-template-columns: repeat(3, 1fr); }
  #images .empty { min-height: 260px; }
}
"""


@dataclass(frozen=True)
class Card:
    """What the page shows of a model card.

    Attributes:
        samples: (file, prompt) of the card's samples, one for each class of the model.
        results: (Markdown, image that follows it or None), in the order of the section "Results"; empty without one.
        reports: the evaluations' pages, as HTML; where there are any, they take the place of the results.
    """

    samples: list[tuple[str, str]]
    results: list[tuple[str, str | None]]
    reports: tuple[str, ...] = ()


def read_card(model: str) -> Card:
    """The card in the pipeline folder `model`, or of the model with that id on the Hub; empty if there is none."""
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, allow_patterns=["README.md", "samples/*", "evaluation/**"]))
    reports = read_reports(folder)
    if not (folder / "README.md").is_file():
        return Card([], [], reports)
    try:
        card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError, YAMLError):
        return Card([], [("The model's card cannot be read.", None)], reports)
    samples = [*widget_samples(card, folder)]
    found = re.search(r"^### Results\n(.*?)(?=^##? |\Z)", card.text, re.DOTALL | re.MULTILINE)
    if not found:
        return Card(samples, [], reports)
    texts = re.split(r"!\[.*?\]\((.*?)\)", found[1])  # text, image, text, …, text
    images = [image_file(folder, unquote(path)) for path in texts[1::2]]
    return Card(samples, [*zip_longest(map(inert, texts[::2]), images)], reports)


def read_reports(folder: Path) -> tuple[str, ...]:
    """The pages `report.html` of the evaluations in a model's folder."""
    files = (file for file in sorted(folder.glob("evaluation/**/report.html")) if lies_within(folder, file))
    small = (file for file in files if file.stat().st_size <= LARGEST_REPORT)
    return tuple(file.read_text(encoding="utf-8", errors="replace") for file in small)


def widget_samples(card: ModelCard, folder: Path) -> Iterator[tuple[str, str]]:
    """(file, prompt) of the samples in the card's metadata; what has another form is left out."""
    widget = card.data.to_dict().get("widget")
    for sample in widget if isinstance(widget, list) else ():
        output = sample.get("output") if isinstance(sample, dict) else None
        if not isinstance(output, dict) or not isinstance(sample.get("text"), str):
            continue
        if file := image_file(folder, str(output.get("url"))):
            yield file, sample["text"]


def lies_within(folder: Path, file: Path) -> bool:
    """Whether a file of a model's repository is in its folder, or where the Hub's cache keeps files."""
    places = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    return any(map(file.resolve().is_relative_to, places))


def image_file(folder: Path, name: str) -> str | None:
    """The image of a model's repository; None for what is no image, or lies elsewhere on this machine."""
    try:
        file = folder / name
        if ".." in Path(name).parts or not lies_within(folder, file):
            return None
        with Image.open(file, formats=["PNG", "JPEG", "WEBP"]):
            return str(file)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def inert(text: str) -> str:
    """Markdown without HTML, links and images: their brackets and addresses are shown as they are."""
    text = re.sub(r"\\?([<\[])", lambda found: f"&#{ord(found[1])};", text)
    return re.sub(r"://|@|(?<=www)\.", lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", text, flags=re.IGNORECASE)


@dataclass(frozen=True)
class Captions:
    """What a model's training report says of its captions.

    Attributes:
        examples: some of them.
        words: by kind ("colour", "background" or "framing"), the words that they state, the most frequent first.
    """

    examples: list[str]
    words: dict[str, list[str]]


def read_captions(model: str) -> Captions:
    """From the pipeline folder `model`, or the model with that id on the Hub; empty where nothing is recorded."""
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, allow_patterns=["training_report.json"]))
    try:
        with (folder / "training_report.json").open(encoding="utf-8") as file:
            found = json.loads(file.read(LARGEST_REPORT))["captions"]
        usable = {
            kind: [word for word in found["words"].get(kind, ()) if re.fullmatch("[a-z -]{3,20}", word)]
            for kind in WORD_KINDS
        }
        words = {kind: known[:MOST_WORDS] for kind, known in usable.items()}
        return Captions([*map(str, found["examples"])][:MOST_WORDS], words)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Captions([], {})


def with_word(prompt: str, kind: str, word: str, known: Sequence[str]) -> str:
    """The prompt with a word that describes the image, in the place of another of its kind.

    Args:
        kind: one of `WORD_KINDS`.
        known: the words of this kind.
    """
    prompt = prompt[:LONGEST_PROMPT]
    others = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    with_article = f"an {word}" if word[0] in "aeiou" else f"a {word}"
    if kind == "framing":
        return re.sub(rf", (?:{others})$", "", prompt.rstrip()) + f", {word}"
    if kind == "background":
        text, comma, framing = re.sub(rf" on an? (?:{others}) background", "", prompt.rstrip()).partition(",")
        return f"{text} on {with_article} background{comma}{framing}"
    text, *rest = re.split(r"( on |,)", prompt.strip(), maxsplit=1)
    pattern = rf"((?:.* )?)(an?|two|three|several) (?:(?:{others}) )?(.+)"
    if found := re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL):
        start, number, name = found.groups()
        text = f"{start}{with_article if number.lower() in ('a', 'an') else f'{number} {word}'} {name}"
    else:
        text = f"{word} " + re.sub(rf"^(?:{others}) ", "", text)
    return "".join([text, *rest])


def wrong_prompt(pipeline: DiffusionPipeline, prompt: Any) -> str:
    """What is wrong with the prompt, as a sentence for the user; "" if nothing is."""
    if not isinstance(prompt, str) or not prompt.strip():
        return "Please write a prompt."
    if len(prompt) > LONGEST_PROMPT:
        return f"Too long: a prompt has at most {LONGEST_PROMPT} characters. Please shorten it."
    if any(unicodedata.category(letter) in ("Cc", "Cs") and not letter.isspace() for letter in prompt):
        return "The prompt holds characters that are not text. Please remove them."
    longest = pipeline.tokenizer.model_max_length - 2  # without the start and end tokens
    tokens = pipeline.tokenizer(prompt, verbose=False).input_ids[1:-1]
    if len(tokens) > longest:
        unread = pipeline.tokenizer.decode(tokens[longest:])
        return f"Too long: the model would ignore “{unread}” at the end. Please shorten the prompt."
    return ""


def wrong_number(value: Any, least: int, most: float, whole: bool = True) -> str:
    """Like `wrong_prompt`, for a number that must lie between `least` and `most`; None is an empty field."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and least <= value <= most and not (whole and value % 1):
        return ""
    return f"This must be a {'whole ' if whole else ''}number from {least} to {most:,.0f}."


def wrong_inputs(pipeline: DiffusionPipeline, prompt, number, seed, guidance, steps) -> tuple[str, ...]:
    """What is wrong with each input of the page; "" where nothing is."""
    return (
        wrong_prompt(pipeline, prompt),
        wrong_number(number, 1, MOST_IMAGES),
        wrong_number(seed, 0, LARGEST_SEED),
        wrong_number(guidance, 1, MOST_GUIDANCE, whole=False),
        wrong_number(steps, 1, MOST_STEPS),
    )


def generate(
    pipeline: Any,
    prompt: str,
    number: int,
    seed: int,
    guidance: float,
    steps: int,
    on_step: Callable[[int], None],
) -> list[Image.Image]:
    """`number` images; image i depends on seed + i alone. Noise comes from the CPU, so it is the same on all devices.

    Args:
        pipeline: an `AnimalLDMPipeline`, or the same components as a `StableDiffusionPipeline`.
        on_step: called with the number of completed steps.
    """

    def on_step_end(_pipeline, step: int, _timestep, tensors: dict) -> dict:
        on_step(step + 1)
        return tensors

    return pipeline(
        prompt,
        num_images_per_prompt=number,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(number)],
        callback_on_step_end=on_step_end,
    ).images


def save(images: Sequence[Image.Image], folder: Path, seed: int, settings: dict) -> Iterator[tuple[str, str]]:
    """Write the images as PNG, with their settings in the text fields; yields (file, caption)."""
    stem = re.sub(r"\W+", "-", settings["prompt"]).strip("-")[:40]
    for i, image in enumerate(images):
        info = PngInfo()
        for name, value in (settings | {"seed": seed + i}).items():
            info.add_itxt(name, str(value))
        file = folder / f"{stem}-{seed + i}.png"
        image.save(file, pnginfo=info)
        yield str(file), f"seed {seed + i}"


# A report may come from a stranger: it can neither run scripts nor load anything. Links to its sections need a base.
REPORT_HEAD = """<!doctype html><base href="about:srcdoc"><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'">"""
REPORT_MAY = "allow-popups allow-popups-to-escape-sandbox"  # links to papers


def show_results(card: Card) -> None:
    """The reports, or else the results of the card, text and images in turn."""
    for report in card.reports:
        document = html.escape(REPORT_HEAD + report)
        frame = f'<iframe title="Evaluation report" sandbox="{REPORT_MAY}" srcdoc="{document}"></iframe>'
        gr.HTML(frame, elem_classes="report")
    if card.reports:
        return
    for text, image in card.results:
        gr.Markdown(text, elem_classes="results", latex_delimiters=[])
        if image:
            gr.Image(image, show_label=False, interactive=False, buttons=["fullscreen"], height=480)
    if not card.results:
        gr.Markdown("No results: this model has no card. Measure it with `animal-ldm evaluate`.")


def show_words(words: Mapping[str, Sequence[str]], prompt: gr.Textbox) -> None:
    """A button for each word, which adds it to the prompt."""
    for kind, known in words.items():
        for word in known:
            button = gr.Button(f"{word} background" if kind == "background" else word, size="sm")
            add = partial(with_word, kind=kind, word=word, known=known)
            button.click(add, prompt, prompt, api_visibility="private", queue=False, show_progress="hidden")


def sampling_defaults(pipeline: Any) -> dict[str, Any]:
    """`DEFAULTS`, and the model's own in their place; without those that the pipeline's class does not take."""
    stored = pipeline.config.get("sampling_defaults")
    if stored is None and (model := pipeline.config.get("_name_or_path")):  # diffusers' class does not keep them
        config: Any = DiffusionPipeline.load_config(model)
        stored = config.get("sampling_defaults")
    taken = inspect.signature(pipeline.__call__).parameters
    return DEFAULTS | {setting: value for setting, value in (stored or {}).items() if setting in taken}


def build_page(
    pipeline: Any,
    name: str,
    prompts: Sequence[str],
    card: Card,
    words: Mapping[str, Sequence[str]] | None = None,
) -> gr.Blocks:
    """The page.

    Args:
        pipeline: an `AnimalLDMPipeline`, or the same components as a `StableDiffusionPipeline`.
        name: of the model.
        prompts: one button each.
        words: one button each, as in `Captions`.
    """
    pipeline.set_progress_bar_config(disable=True)
    fixed = sampling_defaults(pipeline)
    own_steps, own_guidance = (fixed.pop(setting) for setting in DEFAULTS)
    name, prompts = name[:LONGEST_TITLE], [text for text in prompts if len(text) <= LONGEST_TITLE][:MOST_PROMPTS]

    def check(prompt, number, seed, guidance, steps):
        wrong = wrong_inputs(pipeline, prompt, number, seed, guidance, steps)
        return [gr.validate(not message, message) for message in wrong]

    def on_generate(prompt, number, seed, guidance, steps, progress=gr.Progress()):  # noqa: B008 - gradio's way
        if wrong := [*filter(None, wrong_inputs(pipeline, prompt, number, seed, guidance, steps))]:
            raise gr.Error(html.escape(wrong[0]), print_exception=False)  # not every way here leads past `check`

        def on_step(done: int) -> None:
            progress(done / steps, desc=f"step {done} of {steps}")

        number, seed, steps = int(number), int(seed), int(steps)
        images = generate(partial(pipeline, **fixed), prompt, number, seed, guidance, steps, on_step)
        settings = {"prompt": prompt, "model": name, "num_inference_steps": steps, "guidance_scale": guidance, **fixed}
        seeds = f"seed {seed}" if number == 1 else f"seeds {seed} to {seed + number - 1}"
        used = f"“{prompt}” · {seeds} · guidance {guidance:g} · {steps} steps"
        with tempfile.TemporaryDirectory() as folder:  # until gradio, after the yield, has its copy
            yield [*save(images, Path(folder), seed, settings)], html.escape(used)

    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        known = ", or begin with an example" if prompts else ""
        gr.HTML(
            f"<h1>{html.escape(name)}</h1><p>Write what you would like to see{known}.</p>",
            elem_id="head",
            padding=False,
        )
        with gr.Tab("Generate"), gr.Row(elem_id="board"):
            with gr.Column(elem_id="ask"):
                prompt = gr.Textbox(label="Prompt", max_lines=4, max_length=LONGEST_PROMPT, elem_id="prompt")
                with gr.Row(elem_id="words"):
                    for text in prompts:
                        word = gr.Button(text, size="sm")
                        word.click(None, None, prompt, js=f"() => {json.dumps(text)}", api_visibility="private")
                if words and any(words.values()):
                    with gr.Row(elem_id="attributes"):
                        show_words(words, prompt)
                button = gr.Button("Generate", variant="primary", size="lg")
            with gr.Column(elem_id="shown"):
                gallery = gr.Gallery(
                    card.samples or None,
                    show_label=False,
                    elem_id="images",
                    buttons=["download", "download_all", "fullscreen"],
                )
                used = gr.HTML("Samples from the model card" if card.samples else "", elem_id="settings-used")
            with gr.Column(elem_id="settings"):
                number = gr.Slider(1, MOST_IMAGES, 4, step=1, precision=0, label="Images", buttons=[])
                with gr.Row(elem_id="seed"):
                    seed = gr.Number(0, label="Seed", min_width=120)
                    dice = gr.Button("⚄ Roll")
                guidance = gr.Slider(
                    1, MOST_GUIDANCE, own_guidance, step=0.1, label="Guidance: closeness to the prompt", buttons=[]
                )
                steps = gr.Slider(
                    1, MOST_STEPS, own_steps, step=1, precision=0, label="Steps: more take longer", buttons=[]
                )
        with gr.Tab("Results"):
            show_results(card)

        roll = f"() => Math.floor(Math.random() * {LARGEST_SEED + 1})"
        dice.click(None, None, seed, js=roll, api_visibility="private")
        gr.on(
            [button.click, prompt.submit],
            on_generate,
            [prompt, number, seed, guidance, steps],
            [gallery, used],
            validator=check,
            preprocess=False,  # it would round numbers and show its own errors before `check`
            concurrency_limit=1,
            show_progress_on=gallery,
            api_name="generate",
        )
    return page


class Gate:
    """Limits users' requests in size and in number per minute, and takes no uploads, which would fill the disk.

    A user is an address. On a Space a proxy reports it, and a user can make it up; the queue's length limits those.
    """

    def __init__(self, app: Callable, per_minute: int):
        self.app, self.per_minute = app, per_minute
        self.minute, self.requests = 0, Counter[str]()

    async def __call__(self, scope, receive, send) -> None:
        posts = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD")
        refused = self.refusal(scope) if posts else None
        await (PlainTextResponse(*refused) if refused else self.app)(scope, receive, send)

    def refusal(self, scope) -> tuple[str, int] | None:
        """Message and status, if the request must not pass."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        *_, action = scope["path"].rstrip("/").split("/")
        if action == "upload":
            return "This page takes no files.", 403
        if "transfer-encoding" in headers or not re.fullmatch("[0-9]{0,5}", headers.get("content-length", "")):
            return "A request may have 99,999 bytes, and must state its size.", 413
        if action not in ("join", "generate", "predict"):
            return None
        if (minute := int(time.monotonic() // 60)) != self.minute:
            self.minute, self.requests = minute, Counter()
        user = headers.get("x-forwarded-for", "").split(",")[0].strip() if "SPACE_ID" in os.environ else ""
        self.requests[user := user or str((scope["client"] or ["unknown"])[0])] += 1
        if self.requests[user] > self.per_minute:
            return f"You may ask for images {self.per_minute} times a minute. Please wait.", 429
        return None


def start(page: gr.Blocks, per_minute: int = PER_MINUTE, **options) -> str:
    """Serve the page from its own thread; `options` go to gradio's `launch`. Returns the address."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page.queue(max_size=MOST_WAITING, api_open=False)  # closed: no requests that pass by the queue
    options |= {"app_kwargs": {"middleware": [Middleware(Gate, per_minute=per_minute)]}, "max_file_size": 1}
    _, local_url, share_url = page.launch(
        theme=THEME, css=CSS, ssr_mode=False, footer_links=[], quiet=True, prevent_thread_lock=True, **options
    )
    return share_url or local_url


def serve(page: gr.Blocks, **options) -> None:
    """`start` the page and serve it until the process is stopped."""
    print(f"The page is at {start(page, **options)}", flush=True)
    page.block_thread()


def main() -> None:
    """Entry point of a Space."""
    model = SpaceCard.load(Path(__file__).with_name("README.md")).data.to_dict()["models"][0]
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    card = read_card(model)
    prompts = [prompt for _, prompt in card.samples if prompt]
    serve(build_page(pipeline, model.split("/")[-1], prompts, card, read_captions(model).words))


if __name__ == "__main__":
    main()
