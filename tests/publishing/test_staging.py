"""What is staged, what is refused, and that it loads by every route."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from animal_ldm import AnimalLDMPipeline
from animal_ldm.digest import encoder_digest, pipeline_digest
from animal_ldm.errors import InputError
from animal_ldm.evaluation.features import FeatureSet
from animal_ldm.evaluation.gallery import Gallery, Group, Neighbour, Pair, Tile
from animal_ldm.evaluation.reference import Reference, save_reference
from animal_ldm.evaluation.results import Measurement, read_results
from animal_ldm.html import data_uri
from animal_ldm.loading import store_sampling_defaults
from animal_ldm.markdown import plain
from animal_ldm.publishing.checks import check_files
from animal_ldm.publishing.datasets import dataset_title, photo_terms, stage_dataset
from animal_ldm.publishing.hub import publish
from animal_ldm.publishing.request import ModelSource, Target
from animal_ldm.publishing.smoke_test import SmokeTest, smoke_test
from animal_ldm.publishing.staging import stage_model
from animal_ldm.sampling import Sampling
from tests.webpage import Page

from .hub_server import TOKEN
from .test_card import STATEMENTS

COMPONENT_FILES = {
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}
HALF_PRECISION_FILES = {
    "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
}
EVALUATION_FILES = {
    f"evaluation/squeezenet/{name}" for name in ("results.json", "report.html", "samples.webp", "precision_recall.png")
}
SAMPLE_FILES = {f"samples/{name}.png" for name in ("00-lion", "01-polar_bear", "02-wolf", "03-zebra")}
OWN_FILES = {"README.md", "SHA256SUMS", "model_index.json", "pipeline_animal_ldm.py", "training_report.json"}


def files_of(folder) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def stage(model, out, results=(), **options):
    out.mkdir()
    stage_model(ModelSource(model=model, results=tuple(results), **options), STATEMENTS, out)


# In a process of its own, from a folder and from the Hub; prints the images' SHA-256.
GENERATE = """
import hashlib, sys
import torch
if "package" not in sys.argv[1]:
    sys.modules["animal_ldm"] = None
import diffusers

routes = {
    "package": lambda source: AnimalLDMPipeline.from_pretrained(source),
    "diffusion": lambda source: diffusers.DiffusionPipeline.from_pretrained(source),
    "stable_diffusion": lambda source: diffusers.StableDiffusionPipeline.from_pretrained(source),
    "text_to_image": lambda source: diffusers.AutoPipelineForText2Image.from_pretrained(source),
    "custom": lambda source: diffusers.DiffusionPipeline.from_pretrained(
        source, custom_pipeline="pipeline_animal_ldm", trust_remote_code=True
    ),
}
if sys.argv[1] == "package":
    from animal_ldm import AnimalLDMPipeline
for route in sys.argv[1].split(","):
    for source in sys.argv[2:]:
        pipeline = routes[route](source)
        image = pipeline(
            "a zebra", height=16, width=16, num_inference_steps=2, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(5), output_type="np",
        ).images
        print("generated", type(pipeline).__name__, hashlib.sha256(image.tobytes()).hexdigest())
if sys.argv[1] == "package":  # the second use needs no Hub
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    from animal_ldm.commands.generate import main

    main(["a zebra", "--model", sys.argv[-1], "--steps", "2", "--device", "cpu", "--out", "zebra.png"])
"""


def generate(routes: str, sources: list[str], home, hub=None) -> list[tuple[str, str]]:
    """(class of the pipeline, digest of the image) by each route from each source."""
    settings = {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    settings |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"} if hub else {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", GENERATE, routes, *sources]
    home.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=home, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tuple(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("generated")]


def test_every_route_generates_the_same_pixels_from_folder_and_hub(model, evaluation, hub, api, tmp_path):
    stage(model, tmp_path / "staged", [evaluation], variant="fp16")
    publish(tmp_path / "staged", Target("user/model"), api, say=lambda _: None)
    sources = [str(tmp_path / "staged"), "user/model"]
    ours = generate("package", sources, tmp_path / "ours", hub)
    theirs = generate("diffusion,stable_diffusion,text_to_image,custom", sources, tmp_path / "theirs", hub)
    assert {digest for _, digest in ours + theirs} == {ours[0][1]}
    assert [name for name, _ in ours] == ["AnimalLDMPipeline"] * 2
    assert [name for name, _ in theirs] == ["StableDiffusionPipeline"] * 6 + ["AnimalLDMPipeline"] * 2
    assert (tmp_path / "ours/zebra.png").is_file()
    assert not hub.leaked

    # what was staged: all of the list, nothing else, nothing of the machine
    expected = COMPONENT_FILES | HALF_PRECISION_FILES | EVALUATION_FILES | SAMPLE_FILES | OWN_FILES
    assert files_of(tmp_path / "staged") == expected
    for file in files_of(tmp_path / "staged"):
        content = (tmp_path / "staged" / file).read_bytes()
        assert b"/home/me" not in content and b"runs/secret" not in content
        assert TOKEN.encode() not in content
    assert "_name_or_path" not in json.loads((tmp_path / "staged/unet/config.json").read_text())
    assert json.loads((model / "unet/config.json").read_text())["_name_or_path"]  # the model itself is as it was
    published = json.loads((tmp_path / "staged/evaluation/squeezenet/results.json").read_text())
    assert published["schema_version"] == 3
    assert published["data"]["name"] == "Animals of the world" and published["model"]["name"] == "my_model"
    card = ModelCard.load(tmp_path / "staged/README.md")
    assert {sample["output"]["url"] for sample in card.data.widget} == SAMPLE_FILES
    assert card.data.widget[0]["parameters"]["guidance_scale"] == 2.0  # as in the evaluation


def test_captions_of_the_data_are_in_the_gallery(model, tmp_path, no_smoke_test):
    report = json.loads((model / "training_report.json").read_text())
    captions = {
        "sources": {"template": 1234, "attributes": 300, "model:my-private-folder": 20, "model:a/captioner": 5},
        "words": {"colour": ["white"]},
        "examples": ["a white zebra", "a lion / on a green background, " + "far away " * 20],
    }
    (model / "training_report.json").write_text(json.dumps(report | {"captions": captions}))
    stage(model, tmp_path / "staged")
    files = SAMPLE_FILES | {"samples/04-a_white_zebra.png"}
    card = ModelCard.load(tmp_path / "staged/README.md")
    prompts = {sample["output"]["url"]: sample["text"] for sample in card.data.widget}
    assert prompts.keys() > files and list(prompts.values())[4:] == [text.strip() for text in captions["examples"]]
    assert all((tmp_path / "staged" / file).is_file() and len(file) < 100 for file in prompts)
    published = json.loads((tmp_path / "staged/training_report.json").read_text())["captions"]
    assert published["sources"]["model:a local folder"] == 20 and published["sources"]["model:a/captioner"] == 5
    text = card.text
    assert "1,234 from templates around the class name, 300 with words measured from the pixels, 25 by a cap" in text
    assert "my-private-folder" not in text and "a few caption templates" not in text


def test_staging_again_gives_the_same_bytes(model, evaluation, tmp_path, no_smoke_test):
    for name in ("one", "two"):
        stage(model, tmp_path / name, [evaluation], variant="fp16")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    for file in files_of(tmp_path / "one"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_half_precision_beside_the_others(model, tmp_path, no_smoke_test):
    stage(model, tmp_path / "staged", variant="fp16")
    half = load_file(tmp_path / "staged/unet/diffusion_pytorch_model.fp16.safetensors")
    full = load_file(tmp_path / "staged/unet/diffusion_pytorch_model.safetensors")
    assert half.keys() == full.keys()
    assert all(torch.equal(half[name], full[name].half()) for name in full)
    assert json.loads((tmp_path / "staged/text_encoder/config.json").read_text())["dtype"] == "float32"


def test_plots_of_training_photos_only_on_request(model, evaluation, tmp_path, no_smoke_test):
    results = read_results(evaluation / "results.json")
    features = [FeatureSet(torch.rand(number, 4), None) for number in (30, 20)]
    save_reference(Reference(results.extractor, *features), results.data, evaluation / "reference.npz")
    stage(model, tmp_path / "without", [evaluation])
    stage(model, tmp_path / "with", [evaluation], publish_photos=True)
    added = {f"evaluation/squeezenet/{name}" for name in ("nearest.png", "reference.npz")}
    assert files_of(tmp_path / "with") - files_of(tmp_path / "without") == added
    assert "nearest.png" not in (tmp_path / "without/README.md").read_text()
    with (
        np.load(evaluation / "reference.npz") as before,
        np.load(tmp_path / "with/evaluation/squeezenet/reference.npz") as staged,
    ):
        assert all(np.array_equal(before[name], staged[name]) for name in ("mu", "sigma", "train", "validation"))
        names = [json.loads(arrays["about"].tobytes())["data"]["name"] for arrays in (before, staged)]
    assert names == ["prepared", STATEMENTS.dataset_title or ""]


def test_grid_of_samples_of_an_earlier_version(model, evaluation, tmp_path, no_smoke_test):
    Image.new("RGB", (8, 8)).save(evaluation / "samples.png")
    (evaluation / "samples.webp").unlink()
    stage(model, tmp_path / "staged", [evaluation])
    assert "squeezenet/samples.png)" in (tmp_path / "staged/README.md").read_text()
    assert (tmp_path / "staged/evaluation/squeezenet/samples.png").is_file()


def test_report_has_public_names_and_photos_only_on_request(model, evaluation, tmp_path, no_smoke_test):
    pixel = data_uri(Image.new("RGB", (8, 8)), 8)
    pair = Pair("lion", Tile(1, None, 1, pixel), [Neighbour(0.5, pixel)])
    Gallery([Group("lion", [Tile(0, "a lion", 0, pixel)])], "squeezenet", [pair], []).write(
        evaluation / "gallery.json"
    )
    shown = {}
    for name, publish_photos in (("without", False), ("with", True)):
        stage(model, tmp_path / name, [evaluation], publish_photos=publish_photos)
        shown[name] = Page(tmp_path / name / "evaluation/squeezenet/report.html")
        shown[name].check()
    assert len(shown["without"].all("img")) == 1
    assert len(shown["with"].all("img")) == 3
    assert STATEMENTS.repo_id.split("/")[1] in shown["without"].text
    assert "prepared" not in shown["without"].text  # the folder of the photos


def test_every_extractor_of_an_evaluation(model, evaluation, tmp_path, no_smoke_test):
    results = read_results(evaluation / "results.json")
    clip = replace(results.extractor, name="owner/clip")
    of_clip = [replace(metric, extractor=clip, label=f"{metric.label} of it") for metric in results.metrics]
    more = Measurement(clip, of_clip, results.fd_curves, results.per_class, None, None)
    replace(results, more=[more]).write(evaluation / "results.json")
    (evaluation / "owner-clip").mkdir()
    (evaluation / "owner-clip" / "fd_curve.png").write_bytes(b"plot")
    stage(model, tmp_path / "staged", [evaluation])
    staged = tmp_path / "staged" / "evaluation"
    assert (staged / "owner-clip" / "fd_curve.png").read_bytes() == b"plot"
    assert read_results(staged / "owner-clip" / "results.json").each()[0].metrics == of_clip
    assert read_results(staged / "squeezenet" / "results.json").more == []
    assert f"| {plain(of_clip[0].label)} |" in (tmp_path / "staged" / "README.md").read_text()


# --- refused ---------------------------------------------------------------------------------------------------------


def test_pickles(model, tmp_path):
    (model / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="is a pickle"):
        stage(model, tmp_path / "staged")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite(model, tmp_path, value):
    weights = load_file(model / "unet/diffusion_pytorch_model.safetensors")
    weights["conv_in.weight"][0, 0, 0, 0] = value
    save_file(weights, model / "unet/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"conv_in\.weight .* NaN or infinity"):
        stage(model, tmp_path / "staged")


def test_results_of_other_weights(model, evaluation, tmp_path):
    weights = load_file(model / "unet/diffusion_pytorch_model.safetensors")
    weights["conv_in.weight"] += 1
    save_file(weights, model / "unet/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="measured on tiny, whose weights or scheduler are not"):
        stage(model, tmp_path / "staged", [evaluation])


def test_results_of_a_folder_of_images(model, evaluation, tmp_path):
    results = json.loads((evaluation / "results.json").read_text())
    results["model"]["digest"], results["sampling"] = None, None
    (evaluation / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="Evaluate this model"):
        stage(model, tmp_path / "staged", [evaluation])


@pytest.mark.parametrize(
    ("file", "message"),
    [("training_report.json", "not found"), ("unet/config.json", "not a complete pipeline folder")],
)
def test_missing_files(model, tmp_path, file, message):
    (model / file).unlink()
    with pytest.raises(InputError, match=message):
        stage(model, tmp_path / "staged")


def test_broken_json(model, tmp_path):
    (model / "training_report.json").write_text("{")
    with pytest.raises(InputError, match="is not a training report"):
        stage(model, tmp_path / "staged")


def test_limits_and_tokens(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{}")
    check_files(tmp_path)
    (tmp_path / "b.md").write_text(f"my token is {TOKEN}")
    with pytest.raises(InputError, match=r"b\.md contains what looks like an access token") as error:
        check_files(tmp_path)
    assert TOKEN not in str(error.value)
    (tmp_path / "b.md").unlink()
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(50 * 1000**3 + 1)  # takes no room
    with pytest.raises(InputError, match=r"large\.safetensors has 50 GB"):
        check_files(tmp_path)
    (tmp_path / "large.safetensors").unlink()
    monkeypatch.setattr("animal_ldm.publishing.checks.LARGEST_FOLDER", 2)
    for name in "cd":
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(InputError, match="3 of them"):
        check_files(tmp_path)


# --- number types ----------------------------------------------------------------------------------------------------


TUNED = Sampling(
    num_inference_steps=2, guidance_scale=2.0, guidance_rescale=0.5, guidance_interval=(0.0, 0.5), pag_scale=2.0
)


def halve(model, *names) -> None:
    for name in names:
        [file] = (model / name).glob("*.safetensors")
        save_file({key: weight.half() for key, weight in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.slow
def test_weights_in_half_precision(model, tmp_path):
    """With its smoke test: every way to load the model generates the same in float32."""
    halve(model, "unet", "vae", "text_encoder")
    config = model / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}))
    stage(model, tmp_path / "staged")


@pytest.mark.slow
def test_a_model_with_defaults_of_its_own(model, tmp_path):
    """With its smoke test: the gallery is what its own pipeline generates when nothing but a prompt is given."""
    store_sampling_defaults(model, TUNED, AnimalLDMPipeline.from_pretrained(model).scheduler)
    stage(model, tmp_path / "staged")
    pipeline = AnimalLDMPipeline.from_pretrained(tmp_path / "staged")
    assert pipeline.sampling_defaults == vars(TUNED)
    card = ModelCard.load(tmp_path / "staged/README.md")
    shown = card.data.widget[0]
    image = pipeline(shown["text"], generator=torch.Generator().manual_seed(shown["parameters"]["seed"])).images[0]
    with Image.open(tmp_path / "staged" / shown["output"]["url"]) as sample:
        assert np.array_equal(np.asarray(image), np.asarray(sample))
    assert shown["parameters"] | {"seed": 0} == {
        "seed": 0,
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "guidance_rescale": 0.5,
        "guidance_interval": [0.0, 0.5],
        "pag_scale": 2.0,
    }
    assert "2 steps and guidance 2 from 0 to 0.5 of the steps, rescale 0.5, PAG 2 (mid)." in card.text


def test_text_encoder_in_half_precision_is_widened(model, tmp_path, no_smoke_test):
    """Loaded without a dtype, it would not fit a UNet that diffusers loads in float32."""
    halve(model, "text_encoder")
    half = load_file(model / "text_encoder/model.safetensors")
    stage(model, tmp_path / "staged")
    wide = load_file(tmp_path / "staged/text_encoder/model.safetensors")
    assert wide.keys() == half.keys()
    assert all(wide[name].dtype == torch.float32 and torch.equal(wide[name], half[name].float()) for name in half)
    assert json.loads((tmp_path / "staged/text_encoder/config.json").read_text())["dtype"] == "float32"
    assert load_file(model / "text_encoder/model.safetensors")[next(iter(half))].dtype == torch.float16


def test_encoder_is_that_of_the_report(model, tmp_path, no_smoke_test):
    stage(model, tmp_path / "same")
    assert "found equal to those in `training_report.json`" in (tmp_path / "same/README.md").read_text()
    report = json.loads((model / "training_report.json").read_text())
    report["identity"]["vae"] = "cd" * 32
    (model / "training_report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=r"not those of its training: .* identity\.vae"):
        stage(model, tmp_path / "other")
    halve(model, "vae")  # rounded weights do not tell the digest of those in training
    stage(model, tmp_path / "rounded")
    assert "cannot be recomputed" in (tmp_path / "rounded/README.md").read_text()


@pytest.mark.parametrize("name", ["encoder", "pipeline"])
def test_saved_weights_are_those_of_the_report(model, tmp_path, no_smoke_test, name):
    """Newer reports tell the digests of the saved weights, in whatever number type they were saved."""
    halve(model, "unet", "vae")
    pipeline = AnimalLDMPipeline.from_pretrained(model)
    report = json.loads((model / "training_report.json").read_text())
    report["digests"] = {"encoder": encoder_digest(pipeline.vae), "pipeline": pipeline_digest(pipeline)}
    (model / "training_report.json").write_text(json.dumps(report))
    stage(model, tmp_path / "same")
    assert "`digests.encoder`, `digests.pipeline`" in (tmp_path / "same/README.md").read_text()
    report["digests"][name] = "cd" * 32
    (model / "training_report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=f"digests.{name} in training_report.json"):
        stage(model, tmp_path / "other")


def test_number_that_is_claimed_and_missing(model, evaluation, tmp_path, no_smoke_test):
    results = json.loads((evaluation / "results.json").read_text())
    results["metrics"][0]["value"] = "not measured"
    (evaluation / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"results\.json"):
        stage(model, tmp_path / "staged", [evaluation])


# --- the smoke test --------------------------------------------------------------------------------------------------


TWO_STEPS = Sampling(num_inference_steps=2, guidance_scale=3.0)


def lion(seed: int) -> SmokeTest:
    return SmokeTest("samples/00-lion.png", "a lion", seed, 16, TWO_STEPS, None)


@pytest.mark.slow
def test_model_that_generates_another_image(model, tmp_path, no_smoke_test):
    stage(model, tmp_path / "staged")
    with pytest.raises(InputError, match="generates another image"):
        smoke_test(tmp_path / "staged", lion(1))


@pytest.mark.slow
def test_pipeline_that_needs_more_than_the_folder(model, tmp_path, no_smoke_test):
    stage(model, tmp_path / "staged")
    (tmp_path / "staged/pipeline_animal_ldm.py").write_text("import animal_ldm\n")
    with pytest.raises(InputError, match="does not load in a fresh process"):
        smoke_test(tmp_path / "staged", lion(0))


PLAIN_CALLS_TAKE_MORE_STEPS = """
from functools import wraps

call = AnimalLDMPipeline.__call__

@wraps(call)
def other(self, *args, **settings):
    return call(self, *args, **settings | ({} if settings["pag_scale"] else {"num_inference_steps": 3}))

AnimalLDMPipeline.__call__ = other
"""


@pytest.mark.slow
def test_classes_that_generate_different_images(model, tmp_path, no_smoke_test):
    store_sampling_defaults(model, TUNED, AnimalLDMPipeline.from_pretrained(model).scheduler)
    stage(model, tmp_path / "staged")
    with (tmp_path / "staged/pipeline_animal_ldm.py").open("a") as code:
        code.write(PLAIN_CALLS_TAKE_MORE_STEPS)
    with pytest.raises(
        InputError, match=r"Loaded with DiffusionPipeline, .* another image than with its own pipeline"
    ):
        smoke_test(tmp_path / "staged", replace(lion(0), sampling=TUNED))


# --- datasets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "prepared"
    for split in ("train", "validation"):
        (folder / split / "zebra").mkdir(parents=True)
        (folder / split / "zebra/1.png").write_bytes(b"picture")
        record = {"file_name": "zebra/1.png", "text": "a zebra", "label": "zebra"}
        (folder / split / "metadata.jsonl").write_text(json.dumps(record) + "\n")
        (folder / split / "zebra/not in the metadata.png").write_bytes(b"other")
    (folder / "contact_sheet.jpg").write_bytes(b"sheet")
    (folder / "preparation_report.json").write_text("{}")
    (folder / "dataset_card.md").write_text(
        "---\nlicense: cc-by-4.0\npretty_name: Animals\n---\n\n![Some](contact_sheet.jpg)\n"
    )
    (folder / ".preparation").mkdir()
    return folder


def test_dataset(prepared, hub, api, tmp_path):
    stage_dataset(prepared, tmp_path / "staged")
    assert files_of(tmp_path / "staged") == {
        "README.md",
        "contact_sheet.jpg",
        "preparation_report.json",
        "train/metadata.jsonl",
        "train/zebra/1.png",
        "validation/metadata.jsonl",
        "validation/zebra/1.png",
    }
    publish(tmp_path / "staged", Target("user/photos", "dataset"), api, say=lambda _: None)
    assert hub.files("user/photos", kind="dataset")["train/zebra/1.png"] == b"picture"
    assert (photo_terms(prepared), dataset_title(prepared)) == ("cc-by-4.0", "Animals")
    assert (photo_terms(None), dataset_title(None)) == ("not stated", None)


def test_dataset_with_a_licence_unknown_to_the_hub(prepared, tmp_path):
    card = (prepared / "dataset_card.md").read_text()
    (prepared / "dataset_card.md").write_text(card.replace("cc-by-4.0", "CC BY 4.0"))
    with pytest.raises(InputError, match=r"'CC BY 4\.0' is not an identifier .* Edit .*dataset_card\.md"):
        stage_dataset(prepared, tmp_path / "staged")


def test_folder_that_is_not_a_dataset(tmp_path):
    with pytest.raises(InputError, match=r"dataset_card\.md"):
        stage_dataset(tmp_path, tmp_path / "staged")
    with pytest.raises(InputError, match="--data must be a prepared dataset"):
        photo_terms(tmp_path)
