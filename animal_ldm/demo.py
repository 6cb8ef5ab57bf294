"""A page that draws, with the results of the model card beside it.

This one file is both the page of `animal-ldm demo` and, byte for byte, the `app.py` of a Space. A Space has no
`animal_ldm`, so the file imports gradio, diffusers, torch and huggingface_hub (diffusers needs transformers) alone.

A Space is three files:
- `app.py`: this file.
- `README.md`: its metadata hold what every Space of gradio's has (`title`, `sdk: gradio`, `sdk_version`,
  `app_file: app.py`) and `models: [owner/name]`. The first of `models` is what the page draws with, a model that
  `animal-ldm push` published; nothing else names it. The buttons are the texts of that model's `widget`.
- `requirements.txt`: torch, diffusers and transformers in the versions that the model card asks for.
"""

import html
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub import ModelCard, SpaceCard, snapshot_download
from PIL import Image
from PIL.PngImagePlugin import PngInfo

# The pipeline's own defaults; diffusers' class, which a Space loads the model with, has others.
STEPS = 25
GUIDANCE = 3.0

MOST_PICTURES = 8  # drawn in one batch
MOST_STEPS = 100
MOST_GUIDANCE = 10.0
LARGEST_SEED = 2**32 - 1

SERIF = gr.themes.LocalFont("Lora")  # comes with gradio, as the theme's sans serif does: nothing is fetched

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.orange,
    neutral_hue=gr.themes.colors.stone,
    text_size=gr.themes.sizes.text_lg,
    font=[gr.themes.LocalFont("Source Sans 3"), "system-ui", "sans-serif"],
)

CSS = SERIF.stylesheet()["css"]


@dataclass(frozen=True)
class Card:
    """What the page shows of a model card.

    Attributes:
        prompts: texts of the card's samples, one for each class that the model knows.
        results: Markdown of the part on results, without pictures; "" if there is none.
        pictures: (file, caption) of the pictures in that part.
    """

    prompts: list[str]
    results: str
    pictures: list[tuple[str, str]]


def read_card(model: str) -> Card:
    """The card in the pipeline folder `model`, or of the model of that id on the Hub; empty if there is none."""
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, allow_patterns=["README.md", "evaluation/**"]))
    if not (folder / "README.md").is_file():
        return Card([], "", [])
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    prompts = [sample["text"] for sample in card.data.to_dict().get("widget", []) if sample["text"]]
    part = re.search(r"^### Results\n(.*?)(?=^##? |\Z)", card.text, re.DOTALL | re.MULTILINE)
    results = part[1] if part else ""
    picture = re.compile(r"!\[(.*?)\]\((.*?)\)")
    pictures = [(str(folder / path), caption) for caption, path in picture.findall(results)]
    return Card(prompts, picture.sub("", results), pictures)


def wrong_inputs(pipeline: DiffusionPipeline, prompt: str, seed: float | None) -> tuple[str, str]:
    """What is wrong with the prompt and with the seed, as sentences for the user; "" where nothing is."""
    longest = pipeline.tokenizer.model_max_length - 2  # without the marks of start and end
    tokens = pipeline.tokenizer(prompt, verbose=False).input_ids[1:-1]
    wrong_prompt = wrong_seed = ""
    if not prompt.strip():
        wrong_prompt = "Write what to draw."
    elif len(tokens) > longest:
        unread = pipeline.tokenizer.decode(tokens[longest:])
        wrong_prompt = f"Too long: the model would not read “{unread}” at its end. Please shorten it."
    if seed is None or seed != int(seed) or not 0 <= seed <= LARGEST_SEED:
        wrong_seed = f"The seed must be a whole number from 0 to {LARGEST_SEED:,}."
    return wrong_prompt, wrong_seed


def draw(
    pipeline: DiffusionPipeline,
    prompt: str,
    number: int,
    seed: int,
    guidance: float,
    steps: int,
    on_step: Callable[[int], None],
) -> list[Image.Image]:
    """`number` pictures, picture i from seed + i alone; on the CPU, so that all devices see one noise.

    Args:
        on_step: called with the number of steps done.
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


def save(pictures: Sequence[Image.Image], folder: Path, seed: int, settings: dict) -> Iterator[tuple[str, str]]:
    """Write the pictures as PNG with all that draws them again in their text; yields (file, caption)."""
    stem = re.sub(r"\W+", "-", settings["prompt"]).strip("-")[:40]
    for i, picture in enumerate(pictures):
        info = PngInfo()
        for name, value in (settings | {"seed": seed + i}).items():
            info.add_itxt(name, str(value))
        file = folder / f"{stem}-{seed + i}.png"
        picture.save(file, pnginfo=info)
        yield str(file), f"seed {seed + i}"


def build_page(pipeline: DiffusionPipeline, name: str, prompts: Sequence[str], card: Card) -> gr.Blocks:
    """The page.

    Args:
        pipeline: an `AnimalLDMPipeline`, or the same components as a `StableDiffusionPipeline`.
        name: of the model.
        prompts: a button each.
    """
    pipeline.set_progress_bar_config(disable=True)

    def check(prompt, number, seed, guidance, steps):
        wrong_prompt, wrong_seed = wrong_inputs(pipeline, prompt, seed)
        messages = (wrong_prompt, "", wrong_seed, "", "")
        return [gr.validate(not message, message) for message in messages]

    def on_draw(prompt, number, seed, guidance, steps, progress=gr.Progress()):  # noqa: B008 - gradio's way
        seed = int(seed)
        settings = {"prompt": prompt, "model": name, "guidance": guidance, "steps": steps}
        pictures = draw(
            pipeline, prompt, number, seed, guidance, steps, lambda done: progress((done, steps), unit="steps")
        )
        seeds = f"seed {seed}" if number == 1 else f"seeds {seed} to {seed + number - 1}"
        drawn = f"<p>{html.escape(prompt)} · {seeds} · guidance {guidance:g} · {steps} steps</p>"
        with tempfile.TemporaryDirectory() as folder:  # until gradio, after the yield, has its copy
            yield [*save(pictures, Path(folder), seed, settings)], drawn

    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.HTML(f"<header><h1>{html.escape(name)}</h1></header>")
        with gr.Tab("Draw"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompt = gr.Textbox(label="Prompt", max_lines=3)
                with gr.Row():
                    for text in prompts:
                        button = gr.Button(text, size="sm", min_width=60)
                        button.click(None, None, prompt, js=f"() => {json.dumps(text)}", api_visibility="private")
                number = gr.Slider(1, MOST_PICTURES, 4, step=1, precision=0, label="Pictures")
                with gr.Row():
                    seed = gr.Number(0, label="Seed")
                    dice = gr.Button("🎲", min_width=60)
                guidance = gr.Slider(1, MOST_GUIDANCE, GUIDANCE, step=0.1, label="Guidance")
                steps = gr.Slider(1, MOST_STEPS, STEPS, step=1, precision=0, label="Steps")
                button = gr.Button("Draw", variant="primary")
            with gr.Column(scale=3, min_width=320):
                gallery = gr.Gallery(show_label=False, buttons=["download", "download_all", "fullscreen"])
                drawn = gr.HTML()
        with gr.Tab("Results"):
            gr.Markdown(card.results or "This model has no card with results.")
            if card.pictures:
                gr.Gallery(card.pictures, show_label=False)

        roll = f"() => Math.floor(Math.random() * {LARGEST_SEED + 1})"
        dice.click(None, None, seed, js=roll, api_visibility="private")
        gr.on(
            [button.click, prompt.submit],
            on_draw,
            [prompt, number, seed, guidance, steps],
            [gallery, drawn],
            validator=check,
            concurrency_limit=1,
            show_progress_on=gallery,
            api_name="draw",
        )
    return page


def serve(page: gr.Blocks, **options) -> None:
    """Show the page until the process is stopped; `options` are those of gradio's `launch`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page.launch(theme=THEME, css=CSS, ssr_mode=False, footer_links=[], **options)


def main() -> None:
    """What a Space runs."""
    model = SpaceCard.load(Path(__file__).with_name("README.md")).data.models[0]
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    card = read_card(model)
    serve(build_page(pipeline, model.split("/")[-1], card.prompts, card))


if __name__ == "__main__":
    main()
