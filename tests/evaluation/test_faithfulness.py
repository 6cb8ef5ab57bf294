"""CLIP scores by a tiny real CLIP, and measured words on scenes of known colours."""

import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from animal_ldm.commands.evaluate import main
from animal_ldm.data.attributes import Attributes
from animal_ldm.data.prepared import load_split
from animal_ldm.evaluation.extractors import load_extractor
from animal_ldm.evaluation.faithfulness import Described, attribute_results, clip_score, described, share_unasked
from animal_ldm.evaluation.images import images_of_split
from animal_ldm.evaluation.results import AttributeResult, read_results

from ..conftest import tiny_tokenizer
from ..data.test_attributes import scene

# (class, colour, background) of the photos; the last is not what its caption says
SCENES = [
    ("horse", "white", "green"),
    ("horse", "black", "green"),
    ("lion", "orange", "blue"),
    ("lion", "brown", "blue"),
]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A folder with a CLIP of random weights and its tokenizer: 32 px and texts of 24 tokens to 8 numbers."""
    folder = tmp_path_factory.mktemp("extractors") / "tiny-clip"
    tokenizer = tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = small | {"image_size": 32, "patch_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessor(crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared dataset of scenes with captions that say what they show; every third photo has a template alone."""
    folder = tmp_path_factory.mktemp("described")
    for split, repeats in (("train", 6), ("validation", 4)):
        lines = []
        for number, (label, colour, background) in enumerate(SCENES * repeats):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            name = f"{label}/{number:03d}.png"
            radius = 0.28 + number / 500  # no two photos alike
            Image.fromarray(scene(colour, background, 32, radius, noise=number)).save(folder / split / name)
            texts, sources = [f"a {label}"], ["template"]
            if number % 3:
                said = "orange" if colour == "brown" else colour
                texts.append(f"a {said} {label} on a {background} background")
                sources.append("attributes")
            line = {"file_name": name, "text": texts[0], "label": label, "texts": texts, "caption_sources": sources}
            lines.append(json.dumps(line) + "\n")
        (folder / split / "metadata.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def run(tiny_clip, tiny_pipeline_folder, tmp_path, capsys):
    def call(data, *more: str):
        out = tmp_path / "out"
        fixed = ["--data", str(data), "--out", str(out), "--workers", "0", "--device", "cpu", "--steps", "1"]
        main([tiny_pipeline_folder, *fixed, "--extractor", str(tiny_clip), *more])
        results = read_results(out / "results.json")
        results.check()
        return results, out, capsys.readouterr().out

    return call


# --- CLIP score ------------------------------------------------------------------------------------------------------


def test_clip_score_by_closed_form():
    axes = torch.eye(3)
    assert clip_score(axes, axes) == 100
    assert clip_score(axes, axes.roll(1, 0)) == 0
    assert clip_score(axes, -5 * axes) == 0  # not below
    assert clip_score(axes[:2], torch.tensor([[1.0, 0, 0], [0, 1, 1]])) == pytest.approx((100 + 100 / 2**0.5) / 2)


def test_both_towers_give_clips_own_similarity(tiny_clip):
    extractor = load_extractor("clip", tiny_clip)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a zebra", "a long caption of which the text tower can only read the beginning", "a zebra"]
    found = extractor.embed_texts(texts)
    assert found.shape == (3, 8) and torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    processor = CLIPImageProcessor.from_pretrained(tiny_clip)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    ids = tiny_tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt")
    model = CLIPModel.from_pretrained(tiny_clip)
    with torch.no_grad():
        logits = model(pixel_values=(images / 255 - mean) / std, **ids).logits_per_image / model.logit_scale.exp()
    expected = 100 * float(logits.diagonal().clamp(min=0).mean())
    assert clip_score(extractor(images), found) == pytest.approx(expected, rel=1e-4)


def test_a_clip_without_its_tokenizer_measures_images_alone(tiny_clip, tmp_path, caplog):
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    for file in folder.glob("*token*"):
        file.unlink()
    assert load_extractor("clip", folder).text_network is None
    assert "lacks the tokenizer" in caplog.text


# --- measured words --------------------------------------------------------------------------------------------------


def test_images_are_measured_without_boxes_beside_what_their_captions_ask(prepared):
    photos = images_of_split(load_split(prepared, "validation")).take([0, 1, 4, 5, 7])
    found = described(photos, "words", workers=0)
    assert list(found.asked) == [Attributes(), Attributes("black", "green"), Attributes("white", "green"),
                                 Attributes("black", "green"), Attributes("orange", "blue")]  # fmt: skip
    assert [words.colour for words in found.told] == ["white", "black", "white", "black", "brown"]
    assert {words.background for words in found.told} == {"green", "blue"}


def test_shares_are_of_the_images_of_which_anything_is_told():
    def images(*rows: tuple[str, str, str]) -> Described:
        labels, asked, told = zip(*rows, strict=True)
        return Described(labels, [Attributes(word) for word in asked], [Attributes(word) for word in told])

    samples = images(
        *[("horse", "white", "white")] * 3, ("horse", "white", "brown"), *[("horse", "white", "")] * 4,
        ("horse", "", "white"), *[("horse", "", "brown")] * 3, ("horse", "", ""), ("cat", "", "white"),
        ("cat", "black", ""),
    )  # fmt: skip
    photos = images(("horse", "white", "white"), ("horse", "white", ""), ("horse", "brown", "white"))
    white, black = attribute_results(samples, photos)
    assert white == AttributeResult("colour", "white", 8, 4, 0.75, 4, 0.25, 2, 1, 1.0)
    assert black == AttributeResult("colour", "black", 1, 0, None, 1, 0.0, 0, 0, None)


def test_the_share_without_asking_is_of_the_same_classes():
    rows = [("horse", "white", "white")] * 3 + [("cat", "white", "white")]
    rows += [("horse", "", "white"), ("horse", "", "brown"), ("cat", "", "white"), ("dog", "", "black")]
    assert share_unasked(rows, "white") == (3, (3 * 0.5 + 1) / 4)
    assert share_unasked(rows, "red") == (0, None)


# --- the command -----------------------------------------------------------------------------------------------------


def test_prompts_from_the_data(run, prepared):
    results, out, printed = run(prepared, "-n", "24", "--repeats", "2", "--sweep", "guidance_scale=1,3")
    assert results.sampling.prompts_from == "data" and results.sampling.prompts == {}
    assert 3 < results.sampling.distinct_prompts <= 6
    found, again = ({metric.name: metric.value for metric in metrics if metric.k is None}
                    for metrics in (results.metrics, results.sweep.points[1].metrics))  # fmt: skip
    assert again == found and {"clip_score", "colour_accuracy", "background_accuracy"} <= found.keys()
    # the probe, and with it the classes, are as with class names
    assert [found.n_generated for found in results.per_class] == [24, 24]
    score = results.find("clip_score")
    assert (score.n_generated, score.repeats, score.real_photos.n) == (24, 2, 16)
    assert 0 <= score.value <= 100 and 0 <= score.real_photos.value <= 100
    words = {(found.kind, found.word): found for found in results.per_attribute}
    assert words.keys() == {("colour", word) for word in ("white", "black", "orange")} | {
        ("background", word) for word in ("green", "blue")
    }
    assert sum(found.n_asked for (kind, _), found in words.items() if kind == "background") < 48
    # two in three photos have the captions; those of the brown lions say orange
    assert words["colour", "white"].n_photos_asked == 2 and words["colour", "white"].share_photos == 1
    orange = words["colour", "orange"]
    assert (orange.n_photos_asked, orange.n_photos_told, orange.share_photos) == (5, 5, 3 / 5)
    real = results.find("colour_accuracy").real_photos
    assert (real.n, real.value) == (10, 0.8)
    assert (out / "captions.png").is_file()
    for text in ("prompts: captions of the photos", "colour white", "Framing and number are not measured"):
        assert text in printed


def test_class_names_on_request(run, prepared):
    run(prepared, "-n", "12")
    results, out, printed = run(prepared, "-n", "12", "--prompts", "classes")
    assert results.sampling.prompts == {"horse": "a horse", "lion": "a lion"}
    assert (results.sampling.prompts_from, results.sampling.distinct_prompts) == ("classes", 2)
    assert results.per_attribute is None and results.find("colour_accuracy") is None
    assert results.find("clip_score") is not None
    assert not (out / "captions.png").exists() and "prompts: class names" in printed


def test_captions_without_classes(run, prepared, tmp_path):
    """A flat folder's photos, with captions of their own."""
    data = shutil.copytree(prepared, tmp_path / "data")
    for file in data.glob("*/metadata.jsonl"):
        lines = [json.loads(line) | {"label": ""} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line | {"caption_sources": ["own"] * len(line["texts"])}) + "\n"
                                for line in lines))  # fmt: skip
    results, *_ = run(data, "-n", "12")
    assert results.per_class is None and results.find("prompt_accuracy").value is None
    assert results.sampling.prompts_from == "data" and results.find("clip_score") is not None
    assert {found.kind for found in results.per_attribute} == {"background"}
