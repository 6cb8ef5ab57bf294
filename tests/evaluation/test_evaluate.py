"""The command on a tiny pipeline: every number with its context, plots, resuming, and what it refuses."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from animal_ldm import AnimalLDMPipeline
from animal_ldm.commands.evaluate import EvaluateArguments, check, main, parse_sweep
from animal_ldm.commands.evaluate import extractors as extractors_of
from animal_ldm.data.prepared import load_split
from animal_ldm.errors import InputError
from animal_ldm.evaluation import extractors, samples
from animal_ldm.evaluation.images import images_of_split
from animal_ldm.evaluation.results import read_results
from animal_ldm.perceptual import PerceptualDistance
from tests.conftest import held_by_another
from tests.evaluation.test_extractors import tiny_clip


@pytest.fixture
def run(prepared, tiny_resnet, tmp_path, capsys):
    """Run the command; returns its results, its folder and what it printed."""

    def call(model, *more):
        capsys.readouterr()
        out = tmp_path / "out"
        fixed = ["--data", str(prepared), "--out", str(out), "--workers", "0", "--device", "cpu"]
        fixed += ["--extractor", str(tiny_resnet)]
        main([str(model), *fixed, *more])
        results = read_results(out / "results.json")
        results.check()
        return results, out, capsys.readouterr().out

    return call


def test_report_of_a_pipeline(run, tiny_pipeline_folder):
    results, out, printed = run(
        tiny_pipeline_folder, "-n", "30", "--steps", "2", "--repeats", "2", "--sweep", "guidance_scale=1,3"
    )
    assert results.schema_version == 3
    assert results.data.photos == {"train": 60, "validation": 27}
    assert results.sampling.prompts["polar bear"] == "a polar bear"
    assert results.sampling.guidance_scale == 3
    assert results.sampling.num_inference_steps == 2
    names = [(metric.name, metric.k) for metric in results.metrics]
    assert len(names) == len(set(names)) >= 14
    for metric in results.metrics:
        assert metric.n_generated == (27 if metric.name.endswith("_ratio") else 30)
        assert metric.n_real == 60
        assert metric.seed == 423432
        assert metric.repeats == 2
        assert (metric.std is None) == (metric.name == "frechet_distance_infinity")
        assert metric.real_photos.n == 27
        assert metric.sampling.guidance_scale == 3
        assert metric.extractor == results.extractor
    stored = json.loads((out / "results.json").read_text())
    assert set(stored["metrics"][0]["extractor"]) == {"name", "weights_digest", "resize"}
    first = results.metrics[0]
    assert first.label == "FD (tiny-resnet)"
    assert first.note is None
    assert first.real_photos.n == first.same_n.n == 27
    assert first.real_photos.value < first.value  # real photos beat an untrained model
    assert [point.value for point in results.sweep.points] == [1, 3]
    without_errors = [replace(metric, standard_error=None) for metric in results.metrics]
    assert [replace(metric, standard_error=None) for metric in results.sweep.points[1].metrics] == without_errors
    assert results.sweep.points[0].metrics[0].sampling.guidance_scale == 1
    assert results.fd_curves.real_photos.sizes[-1] == 27
    assert results.find("frechet_distance_infinity").value is None  # 30 samples are too few for 12 features
    assert "not measured: 30 samples" in printed
    kernel = results.find("kernel_distance")
    assert (kernel.subsets.number, kernel.subsets.size) == (100, 30)
    assert kernel.subsets.std > 0
    assert {found.label for found in results.per_class} == {"lion", "polar bear", "zebra"}
    assert sum(found.n_generated for found in results.per_class) == 60
    plots = {"samples.webp", "precision_recall.png", "fd_curve.png", "nearest.png", "sweep.png", "report.html"}
    assert plots < {path.name for path in out.iterdir()}
    assert "FID" not in printed
    for text in (
        "FD (tiny-resnet)",
        "precision, k=10",
        "N=27",
        "2 sample sets, mean ± standard deviation",
        "guidance_scale",
        "prompt accuracy",
        "most often mistaken for",
    ):
        assert text in printed


def test_ratios_are_of_equal_n(run, tiny_pipeline_folder):
    """Samples over held-out photos, both against the same reference and as many of the one as of the other."""
    results, _, printed = run(tiny_pipeline_folder, "-n", "40", "--steps", "1")
    for name, k in (("frechet_distance", None), ("precision", 10), ("recall", 10)):
        whole, ratio = results.find(name, k), results.find(f"{name}_ratio", k)
        assert ratio.n_generated == whole.same_n.n == whole.real_photos.n == 27
        assert ratio.value == pytest.approx(whole.same_n.value / whole.real_photos.value)
    # an untrained model: far from the photos, and that many are far more than the bias of few
    assert results.find("frechet_distance_ratio").value > 2
    (line,) = (line for line in printed.splitlines() if line.startswith("FD (tiny-resnet) / real photos'"))
    # in the column of the equal N, the column of all samples empty
    header = next(line for line in printed.splitlines() if "N=40" in line)
    assert not line[: header.index("N=40") + 4].removeprefix("FD (tiny-resnet) / real photos'").strip()


def test_second_run_samples_nothing_and_finds_the_same(run, tiny_pipeline_folder, monkeypatch):
    first, *_ = run(tiny_pipeline_folder, "-n", "20", "--steps", "2")
    monkeypatch.setattr(samples, "whole_file", lambda *_: pytest.fail("an image was sampled again"))
    assert run(tiny_pipeline_folder, "-n", "20", "--steps", "2")[0] == first


def test_a_second_evaluation_in_the_same_folder_says_who_holds_it(run, tiny_pipeline_folder, tmp_path):
    with (
        held_by_another(tmp_path / "out" / ".lock") as other,
        pytest.raises(InputError, match=f"--out .*out is in use by process {other.pid} on "),
    ):
        run(tiny_pipeline_folder, "-n", "20", "--steps", "1")
    run(tiny_pipeline_folder, "-n", "20", "--steps", "1")
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.slow
def test_two_processes_find_the_same(run, tiny_pipeline_folder, prepared, tiny_resnet, tmp_path):
    expected, *_ = run(tiny_pipeline_folder, "-n", "50", "--steps", "2", "--reconstructions")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "animal_ldm", "evaluate", tiny_pipeline_folder, "--data", str(prepared)]
    command += ["--extractor", str(tiny_resnet), "--out", str(tmp_path / "two"), "--workers", "0", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ANIMAL_LDM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "-n", "50", "--steps", "2", "--reconstructions"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FD (tiny-resnet) / real photos'") == 1  # the first process alone prints
    found = read_results(tmp_path / "two" / "results.json")
    for one, two in zip(expected.metrics, found.metrics, strict=True):
        assert two.value == pytest.approx(one.value, rel=1e-3, abs=1e-6)
    for name in ("psnr", "frechet_distance", "probe_accuracy"):
        assert getattr(found.autoencoder, name) == pytest.approx(getattr(expected.autoencoder, name), rel=1e-3)


def test_class_mix(run, tiny_pipeline_folder):
    results, *_ = run(tiny_pipeline_folder, "-n", "30", "--steps", "1", "--class_mix", "balanced")
    assert [found.n_generated for found in results.per_class] == [10, 10, 10]
    results, *_ = run(tiny_pipeline_folder, "-n", "30", "--steps", "1")
    assert [found.n_generated for found in results.per_class] == [15, 10, 5]


def test_validation_photos_as_reference(run, tiny_pipeline_folder):
    results, *_ = run(tiny_pipeline_folder, "-n", "20", "--steps", "1", "--split", "validation")
    first = results.metrics[0]
    assert first.n_real == 27
    assert first.real_photos.n == 20
    assert results.find("authpct").n_real == 60  # copies are looked for among the training photos all the same


def test_real_photos_as_samples_score_like_real_photos(run, prepared):
    """The held-out photos in the samples' place reach floor and ceiling themselves."""
    results, *_ = run(prepared / "validation", "-n", "27")
    assert results.sampling is None
    accuracy = results.find("prompt_accuracy")
    assert accuracy.value == accuracy.real_photos.value > 0.9
    assert results.find("nearer_than_held_out").value == 0.5
    assert results.find("median_distance").value == 1
    assert results.find("frechet_distance_ratio").value == pytest.approx(1)
    assert results.find("precision_ratio", 10).value == results.find("recall_ratio", 10).value == 1
    for name in ("precision", "recall"):
        assert results.find(name, 3).value == results.find(name, 3).real_photos.value
    assert results.fd_curves.samples.sizes[-1] == 27


def test_copies_of_training_photos_are_reported(run, prepared):
    results, *_ = run(prepared / "train", "-n", "30")
    assert results.find("nearer_than_held_out").value == 1
    assert results.find("median_distance").value == 0
    assert results.find("authpct").value == 0


def test_reconstructions(run, tiny_pipeline_folder):
    results, out, printed = run(tiny_pipeline_folder, "-n", "12", "--steps", "1", "--reconstructions")
    found = results.autoencoder
    assert found.n == 27
    assert 0 < found.psnr < 30
    assert found.frechet_distance > 0
    assert found.probe_accuracy_photos > 0.9
    assert found.lpips is None
    assert len(list((out / "reconstructions").rglob("*.png"))) == 27
    assert "PSNR" in printed
    assert "LPIPS (squeezenet)" in printed
    assert "not measured: pass --squeezenet_weights FILE" in printed


@pytest.fixture(scope="module")
def larger_photos(prepared, tmp_path_factory):
    """`prepared` at 48 px: 16 are too few for SqueezeNet, and with it LPIPS."""
    folder = tmp_path_factory.mktemp("larger") / "prepared"
    shutil.copytree(prepared, folder)
    for path in folder.rglob("*.png"):
        Image.open(path).resize((48, 48), Image.Resampling.NEAREST).save(path)
    return folder


@pytest.mark.parametrize("extractor", ["squeezenet", "another"])
def test_psnr_and_lpips_of_reconstructions(
    tiny_pipeline_folder, larger_photos, squeezenet_weights, tiny_resnet, tmp_path, extractor
):
    """Against LPIPS and the decoder themselves, called on all photos at once."""
    common = ["--data", str(larger_photos), "--workers", "0", "--device", "cpu", "-n", "12", "--steps", "1"]
    common += ["--out", str(tmp_path), "--batch_size", "5", "--reconstructions"]
    extractors = {
        "squeezenet": ["--extractor", "squeezenet", "--extractor_weights", str(squeezenet_weights)],
        "another": ["--extractor", str(tiny_resnet), "--squeezenet_weights", str(squeezenet_weights)],
    }
    main([tiny_pipeline_folder, *common, *extractors[extractor]])
    found = read_results(tmp_path / "results.json").autoencoder
    photos = images_of_split(load_split(larger_photos, "validation"))
    images = torch.stack([torch.tensor(photos[i]) for i in range(len(photos))]).permute(0, 3, 1, 2) / 127.5 - 1
    vae = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder).vae
    with torch.no_grad():
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
        decoded = ((decoded + 1) * 127.5).round() / 127.5 - 1  # as an image
        lpips = PerceptualDistance(squeezenet_weights)(images, decoded).mean()
    psnr = 10 * torch.log10(4 / (images - decoded).square().mean((1, 2, 3))).mean()
    assert found.n == 27
    assert found.lpips == pytest.approx(float(lpips), rel=1e-3)
    assert found.psnr == pytest.approx(float(psnr), rel=1e-3)


def test_inception_keeps_its_names_and_labels_few_samples(prepared, inception_stand_in, tmp_path, monkeypatch, capsys):
    """Everything but the digest: with Inception's weights the distance is an FID, and 20 samples are too few."""
    digest = hashlib.sha256(inception_stand_in.read_bytes()).hexdigest()
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest)
    common = ["--data", str(prepared), "--out", str(tmp_path), "--workers", "0", "--device", "cpu", "-n", "20"]
    main([str(prepared / "validation"), *common, "--inception_weights", str(inception_stand_in)])
    first = read_results(tmp_path / "results.json").metrics[0]
    assert first.label == "FID"
    assert "fewer than 2,048 samples" in first.note
    assert first.extractor.weights_digest == digest
    assert "fewer than 2,048 samples" in capsys.readouterr().out


# Statistics of photos in a file


def near(value):
    return None if value is None else pytest.approx(value, rel=1e-9)


def by_file(model, file, out, extractor, *more):
    """Results of a model against the photos of a file."""
    fixed = ["--out", str(out), "--workers", "0", "--device", "cpu", "--extractor", str(extractor)]
    main([str(model), "--reference", str(file), *fixed, *more])
    results = read_results(out / "results.json")
    results.check()
    return results


def test_a_file_of_statistics_gives_what_the_photos_give(run, tiny_pipeline_folder, tiny_resnet, tmp_path, capsys):
    file = tmp_path / "new" / "reference.npz"
    expected, *_ = run(tiny_pipeline_folder, "-n", "24", "--steps", "1", "--save_reference", str(file))
    found = by_file(tiny_pipeline_folder, file, tmp_path / "by file", tiny_resnet, "-n", "24", "--steps", "1")
    assert found.data == replace(expected.data, reference_file=hashlib.sha256(file.read_bytes()).hexdigest())
    assert found.per_class == expected.per_class and found.sampling == expected.sampling
    for one, other in zip(found.metrics, expected.metrics, strict=True):
        assert one.value == near(other.value)
        assert one.real_photos == replace(other.real_photos, value=near(other.real_photos.value))
        assert (one.n_real, one.note) == (other.n_real, other.note)
    assert not (tmp_path / "by file" / "nearest.png").exists()
    with np.load(file) as arrays:  # what other programs look for
        assert arrays["mu"].shape == (12,) and arrays["sigma"].shape == (12, 12)


def test_a_part_of_the_photos(run, tiny_pipeline_folder, tiny_resnet, tmp_path):
    """The Frechet distance and copies see all photos, the rest the part, and the file says what it cannot give."""
    file, common = tmp_path / "reference.npz", ("-n", "24", "--steps", "1")
    whole, *_ = run(tiny_pipeline_folder, *common)
    part, *_ = run(tiny_pipeline_folder, *common, "--subset", "20", "--save_reference", str(file), "--reconstructions")
    copies = {"nearer_than_held_out", "median_distance", "nearer_than_closest_percent", "authpct"}
    for metric in part.metrics:
        of_all = metric.name.startswith("frechet_distance") or metric.name in copies
        assert metric.n_real == (60 if of_all else 20), metric.name
    assert part.find("frechet_distance").value == pytest.approx(whole.find("frechet_distance").value, rel=1e-10)
    assert part.find("median_distance").real_photos.n == 20
    assert "against 20 of the 60 photos" in part.find("recall", 10).note
    assert part.find("kernel_distance").value != whole.find("kernel_distance").value
    assert part.autoencoder.n == 20
    assert part.data == whole.data
    found = by_file(tiny_pipeline_folder, file, tmp_path / "by file", tiny_resnet, *common)
    for one, other in zip(found.metrics, part.metrics, strict=True):
        if one.name in copies:
            assert one.value is None and "copies of others stay hidden" in one.note and one.n_real == 60
        else:
            assert one.value == near(other.value) and one.note == other.note


def test_files_of_statistics_that_do_not_fit(run, tiny_pipeline_folder, tiny_resnet, tmp_path):
    tiny_clip(tmp_path / "clip")
    file, damaged, foreign = tmp_path / "reference.npz", tmp_path / "damaged.npz", tmp_path / "fid.npz"
    run(tiny_pipeline_folder, "-n", "12", "--steps", "1", "--save_reference", str(file))
    damaged.write_bytes(file.read_bytes()[:5000])
    np.savez(foreign, mu=np.zeros(12), sigma=np.eye(12))
    for path, extractor, message in (
        (file, tmp_path / "clip", "measured with another weights of the extractor"),
        (damaged, tiny_resnet, "is not a file that"),
        (foreign, tiny_resnet, "other programs lack"),
        (tmp_path / "none.npz", tiny_resnet, "not found"),
    ):
        with pytest.raises(InputError, match=message):
            by_file(tiny_pipeline_folder, path, tmp_path / "out", extractor, "-n", "12", "--steps", "1")
    with np.load(file) as arrays:
        changed = dict(arrays) | {"sigma": np.full((12, 12), np.nan)}
    np.savez(file, **changed)
    with pytest.raises(InputError, match="finite mean and covariance of the reference's Gaussian"):
        by_file(tiny_pipeline_folder, file, tmp_path / "out", tiny_resnet, "-n", "12", "--steps", "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --data"),
        ({"data": Path("data"), "reference": Path("a.npz")}, "either --data"),
        ({"reference": Path("a.npz"), "reconstructions": True}, "--reconstructions needs the photos"),
        ({"reference": Path("a.npz"), "prompts": "data", "split": "train"}, "--split, --prompts data need the photos"),
        ({"reference": Path("a.npz"), "extractor": "clip,inception"}, "of one extractor"),
        ({"data": Path("data"), "subset": 5}, "--subset must be at least 12"),
    ],
)
def test_what_a_file_of_statistics_cannot_give(options, message):
    with pytest.raises(InputError, match=message):
        check(EvaluateArguments(model="model", **options))


# Several extractors


def test_several_extractors_find_what_each_finds_alone(run, tiny_pipeline_folder, tiny_resnet, tmp_path):
    tiny_clip(tmp_path / "clip")
    options = ("-n", "24", "--steps", "1", "--reconstructions")
    alone, *_ = run(tiny_pipeline_folder, *options)
    results, out, printed = run(tiny_pipeline_folder, *options, "--extractor", f"{tiny_resnet},{tmp_path / 'clip'}")
    first, clip = results.each()
    assert first == alone
    assert (alone.more, [found.extractor.name for found in results.more]) == ([], ["clip"])
    assert clip.data == alone.data
    assert clip.autoencoder.psnr == alone.autoencoder.psnr
    assert clip.autoencoder.frechet_distance != alone.autoencoder.frechet_distance
    assert clip.find("cmmd").label == "CMMD (clip)"
    assert clip.find("cmmd").value > clip.find("cmmd").real_photos.value
    assert first.find("cmmd") is None
    assert {path.name for path in (out / "clip").iterdir()} == {"precision_recall.png", "fd_curve.png", "nearest.png"}
    # one table with a column each
    header = next(line for line in printed.splitlines() if line.endswith("better"))
    assert header.split() == ["tiny-resnet", "clip", "better"]
    [distance] = (line for line in printed.splitlines() if line.startswith("Frechet distance  "))
    for found in (first, clip):
        metric = found.metrics[0]
        assert f"{metric.value:.4g} ± {metric.standard_error:.2g} ({metric.real_photos.value:.4g})" in distance
    assert "FID" not in printed


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ("clip,clip", None, "different names"),
        ("clip,", None, "different names"),
        ("clip,dinov2", "somewhere", "NAME=PATH"),
        ("clip,dinov2", "squeezenet=somewhere", "NAME=PATH"),
    ],
)
def test_extractors_that_cannot_be_told_apart(names, weights, message):
    arguments = EvaluateArguments(model="model", data=Path("data"), extractor=names, extractor_weights=weights)
    with pytest.raises(InputError, match=message):
        check(arguments)


def test_weights_of_extractors():
    arguments = EvaluateArguments(model="model", data=Path("data"), extractor="squeezenet", extractor_weights="a=b.pt")
    assert extractors_of(arguments) == {"squeezenet": "a=b.pt"}
    several = replace(arguments, extractor="clip,inception,dinov2", extractor_weights="dinov2=a b/c,clip=d")
    assert extractors_of(several) == {"clip": "d", "inception": None, "dinov2": "a b/c"}


# Refusals


def test_too_few_samples(run, tiny_pipeline_folder):
    with pytest.raises(InputError, match="--number must be at least 12"):
        run(tiny_pipeline_folder, "-n", "5")


@pytest.mark.parametrize(
    "sweep", ["guidance=1,2", "guidance_scale", "guidance_scale=1,x", "guidance_scale=nan", "num_inference_steps=2.5"]
)
def test_sweeps_that_mean_nothing(sweep):
    with pytest.raises(InputError, match="--sweep must be"):
        parse_sweep(sweep)


def test_a_folder_of_images_makes_no_new_samples(run, tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="need a pipeline"):
        run(tmp_path, "--repeats", "2")


def test_a_folder_that_is_not_a_dataset(tiny_pipeline_folder, tmp_path, tiny_resnet):
    with pytest.raises(InputError, match="prepared dataset"):
        main([tiny_pipeline_folder, "--data", str(tmp_path), "--extractor", str(tiny_resnet), "--device", "cpu"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--repeats", "0"),
        ("--batch_size", "0"),
        ("--workers", "-1"),
        ("--steps", "0"),
        ("--guidance_scale", "nan"),
        ("--guidance_rescale", "2"),
        ("--pag_scale", "-1"),
        ("--sweep", "num_inference_steps=10,0"),
    ],
)
def test_values_out_of_range(run, tiny_pipeline_folder, option, value):
    with pytest.raises(InputError, match="must be"):
        run(tiny_pipeline_folder, option, value)


def test_help_names_everything(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for text in ("MODEL", "--data", "--number", "--sweep", "--extractor", "results.json", "--guidance"):
        assert text in printed
    for alias in ("-n", "--inception_weights", "--perceptual_weights", "--squeezenet_weights", "--cache_dir"):
        assert alias in printed
    assert Path(__file__).name not in printed


def test_help_needs_no_torch():
    program = (
        "import sys, contextlib\nfrom animal_ldm.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['evaluate', '--help'])\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    assert (
        "--extractor_weights"
        in subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def test_photos_of_one_class_leave_prompt_accuracy_unmeasured(run, prepared, tiny_pipeline_folder, tmp_path):
    single = tmp_path / "single"
    shutil.copytree(prepared, single)
    for metadata in single.glob("*/metadata.jsonl"):
        lines = [json.loads(line) | {"label": "lion"} for line in metadata.read_text().splitlines()]
        metadata.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results, _, printed = run(
        tiny_pipeline_folder, "-n", "12", "--steps", "1", "--data", str(single), "--reconstructions"
    )
    assert results.find("prompt_accuracy").value is None and results.per_class is None
    assert "the photos are of one class" in printed
    assert results.autoencoder.probe_accuracy is None and results.autoencoder.psnr > 0
    assert results.find("recall", 10).value is not None
