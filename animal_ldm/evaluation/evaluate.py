"""One evaluation: a model's samples and real photos -> `Results`, written as `results.json` with plots."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..digest import pipeline_digest
from ..environment import library_versions
from ..perceptual import PerceptualDistance
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import Sampling
from . import plots
from .faithfulness import TextReference, TextReport, held_out_texts
from .features import FeatureSet, Measurer
from .gallery import SamplesAndPhotos, gallery
from .images import Images
from .page import write_page
from .reconstruction import measure_reconstructions, reconstruct
from .reference import SUBSET, Reference, measure_references, part_of, read_reference, save_reference
from .report import measure
from .results import (
    AutoencoderResult,
    DataInfo,
    Measurement,
    ModelInfo,
    Results,
    SamplingInfo,
    Sweep,
    SweepPoint,
    plots_folder,
)
from .samples import CachedSampler, caption_prompts, classes_of_samples, prompt_of

LIBRARIES = ("torch", "diffusers", "transformers", "clean-fid", "numpy", "pillow")


@dataclass(frozen=True)
class SweepSettings:
    """A sampling parameter, and the values to measure it at."""

    parameter: str  # a field of `Sampling`
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What to measure, and where to write it."""

    model_name: str
    data_name: str
    out: Path
    number: int  # samples in each sample set; of a folder of images, at most so many
    seed: int
    sampling: Sampling = field(default_factory=Sampling)
    split: Literal["train", "validation"] = "train"
    class_mix: Literal["data", "balanced"] = "data"
    prompts: Literal["data", "classes"] = "classes"  # captions of the reference photos, or the class names
    repeats: int = 1
    sweep: SweepSettings | None = None
    reconstructions: bool = False
    perceptual: PerceptualDistance | None = None  # for the reconstructions' LPIPS; None: not measured
    subset: int = SUBSET  # photos of each split that all metrics but those of copies and the Frechet distance look at
    save_reference: Path | None = None  # of the first extractor


def evaluate(
    model: AnimalLDMPipeline | Images,
    photos: Mapping[str, Images] | Path,
    measurer: Measurer,
    settings: EvaluationSettings,
) -> Results:
    """Measure a model's samples, or images that were generated before, and write results.json and the plots.

    Samples, reconstructions and their features are kept below `settings.out`: an interrupted run resumes.

    Args:
        photos: the photos of both splits, {"train": …, "validation": …}; or a file by `save_reference`, for the first
            extractor alone. It says the split, and has neither captions nor photos to reconstruct.
        measurer: its cache keeps the photos' features; its batch size is that of the sampling too. With its state,
            every process makes this call.
    """
    references, data, some = real_side(photos, measurer, settings)
    classes = data.classes
    of_samples = measurer.with_cache(settings.out / "features")
    info, sampling, sampling_info = ModelInfo(settings.model_name, None), None, None
    sweeps, autoencoders = [None] * len(references), [None] * len(references)
    of_texts = TextReport([[] for _ in references], None)
    if isinstance(model, Images):
        samples = choose_images(model, classes, settings)
        sample_sets = [found.split(1) for found in of_samples.feature_sets(samples, "samples")]
    else:
        labels = class_labels(classes, settings)
        captioned = Images(()) if isinstance(photos, Path) else photos[settings.split]
        prompts = prompts_of(labels, captioned, settings)
        texts = measure_texts(prompts, some[data.held_out], references, of_samples, settings)
        run = PipelineRun(model, references, of_samples, settings, labels, texts)
        info, sampling_info = replace(info, digest=pipeline_digest(model)), run.sampling_info()
        sampling = settings.sampling
        samples, sample_sets = run.sample(sampling)
        of_texts = texts.measure(samples, sample_sets, sampling)
        sweeps, autoencoders = run.sweeps(), run.reconstructions(some["validation"])
    reports = [measure(*both, settings.seed, sampling) for both in zip(references, sample_sets, strict=True)]
    reports = [
        replace(report, metrics=report.metrics + more) for report, more in zip(reports, of_texts.metrics, strict=True)
    ]
    first, *more = [
        Measurement(reference.extractor, **vars(report), sweep=sweep, autoencoder=autoencoder)
        for reference, report, sweep, autoencoder in zip(references, reports, sweeps, autoencoders, strict=True)
    ]
    results = Results(
        model=info,
        data=data,
        sampling=sampling_info,
        versions=library_versions(*LIBRARIES),
        **vars(first),
        per_attribute=of_texts.per_attribute,
        more=more,
    )
    if measurer.is_main_process:
        train = None if isinstance(photos, Path) else photos["train"]
        write(results, samples, list(zip(references, sample_sets, strict=True)), train, settings.out)
    return results


def real_side(
    photos: Mapping[str, Images] | Path, measurer: Measurer, settings: EvaluationSettings
) -> tuple[list[Reference], DataInfo, dict[str, Images]]:
    """The references of all extractors, what the data are, and of each split the images whose features they hold.

    Of a file these are the classes alone.
    """
    if isinstance(photos, Path):
        reference, data = read_reference(photos, measurer)
        parts = {"train": reference.train, "validation": reference.validation}
        return [reference], data, {name: Images((), part.labels) for name, part in parts.items()}
    references = measure_references(photos, measurer, settings.split, settings.subset)
    data = describe_data(photos, settings)
    if settings.save_reference:
        _ = references[0].moments  # which all processes compute together
        if measurer.is_main_process:
            save_reference(references[0], data, settings.save_reference)
    return references, data, {name: part_of(images, settings.subset) for name, images in photos.items()}


def describe_data(photos: Mapping[str, Images], settings: EvaluationSettings) -> DataInfo:
    return DataInfo(
        name=settings.data_name,
        reference=settings.split,
        held_out="validation" if settings.split == "train" else "train",
        photos={split: len(images) for split, images in photos.items()},
        digests={split: images.digest() for split, images in photos.items()},
        classes=dict(Counter(photos[settings.split].labels).most_common()),
        image_size=len(photos["train"][0]),
    )


def choose_images(images: Images, classes: Mapping[str, int], settings: EvaluationSettings) -> Images:
    """At most `number` of the images, at random; they lose their labels where the photos lack one of the classes."""
    if images.labels and not set(images.labels) <= set(classes):
        images = Images(images.files)
    chosen = np.random.default_rng(settings.seed).permutation(len(images))[: settings.number]
    return images.take(sorted(chosen))


def class_labels(classes: Mapping[str, int], settings: EvaluationSettings) -> list[str]:
    """The class of every sample."""
    mix = classes if settings.class_mix == "data" else dict.fromkeys(classes, 1)
    return classes_of_samples(mix, settings.number * settings.repeats)


def prompts_of(labels: Sequence[str], photos: Images, settings: EvaluationSettings) -> list[str]:
    """A prompt for each class: captions of the photos, or class names."""
    return caption_prompts(labels, photos) if settings.prompts == "data" else [*map(prompt_of, labels)]


def measure_texts(
    prompts: Sequence[str],
    held_out: Images,
    references: Sequence[Reference],
    of_samples: Measurer,
    settings: EvaluationSettings,
) -> TextReference:
    """The prompts of the samples, beside what the same measures find in held-out photos and their captions."""
    captions = prompts_of(held_out.labels or (), held_out, settings)
    features = [reference.other for reference in references]
    scores, words = held_out_texts(held_out, features, captions, of_samples, with_words=settings.prompts == "data")
    return TextReference(prompts, of_samples, settings.seed, len(captions), scores, words)


@dataclass(frozen=True)
class PipelineRun:
    """An evaluation of a pipeline: samples with any settings, measured against the references of all extractors."""

    pipeline: AnimalLDMPipeline
    references: list[Reference]
    measurer: Measurer  # for samples
    settings: EvaluationSettings
    labels: list[str]  # class of each sample
    texts: TextReference

    def sampling_info(self) -> SamplingInfo:
        settings, of_classes = self.settings, self.settings.prompts == "classes"
        return SamplingInfo(
            **asdict(settings.sampling),
            seed=settings.seed,
            class_mix=settings.class_mix,
            prompts={label: prompt_of(label) for label in sorted(set(self.labels))} if of_classes else {},
            prompts_from=settings.prompts,
            distinct_prompts=len(set(self.texts.prompts)),
            scheduler=type(self.pipeline.scheduler).__name__,
            dtype=str(self.pipeline.unet.dtype).removeprefix("torch."),
            image_size=self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor,
        )

    def sample(self, sampling: Sampling) -> tuple[Images, list[list[FeatureSet]]]:
        """All samples, and by every extractor their features as `repeats` sets."""
        out, measurer = self.settings.out, self.measurer
        sampler = CachedSampler(self.pipeline, out / "samples", measurer.batch_size, measurer.state)
        samples = sampler.sample(self.labels, sampling, self.settings.seed, self.texts.prompts)
        return samples, [found.split(self.settings.repeats) for found in measurer.feature_sets(samples, "samples")]

    def sweeps(self) -> list[Sweep | None]:
        """By every extractor, the metrics at each value of the swept parameter."""
        sweep, seed = self.settings.sweep, self.settings.seed
        if sweep is None:
            return [None] * len(self.references)
        points: list[list[SweepPoint]] = [[] for _ in self.references]
        for value in sweep.values:
            changed = replace(self.settings.sampling, **{sweep.parameter: value})
            samples, found = self.sample(changed)
            of_texts = self.texts.measure(samples, found, changed).metrics
            for reference, sample_sets, more, own in zip(self.references, found, of_texts, points, strict=True):
                metrics = measure(reference, sample_sets, seed, changed, errors=False).metrics
                own.append(SweepPoint(value, metrics + more))
        return [Sweep(sweep.parameter, own) for own in points]

    def reconstructions(self, photos: Images) -> list[AutoencoderResult | None]:
        settings, measurer = self.settings, self.measurer
        if not settings.reconstructions:
            return [None] * len(self.references)
        folder = settings.out / "reconstructions"
        images = reconstruct(self.pipeline.vae, photos, folder, measurer.batch_size, measurer.state)
        return [
            *measure_reconstructions(photos, images, self.references, measurer, settings.perceptual, settings.seed)
        ]


def write(
    results: Results,
    samples: Images,
    measured: Sequence[tuple[Reference, list[FeatureSet]]],
    train: Images | None,
    out: Path,
) -> None:
    """results.json, the report and the plots: those of other extractors than the first in a folder with their name.

    results.json comes last: where it is, the others are of the same run.

    Args:
        measured: by every extractor, the photos' and the samples' features.
        train: the training photos, which images of a report show; None: they are not at hand.
    """
    first = samples.take(range(len(measured[0][1][0])))
    plots.save_sample_grid(first, results, out / "samples.webp")
    (out / "samples.png").unlink(missing_ok=True)  # the same, by an earlier version
    plots.save_captioned_samples(first, results, out / "captions.png")
    for own, (reference, [features, *_]) in zip(results.each(), measured, strict=True):
        folder = plots_folder(out, results, own)
        plots.save_precision_recall(own, folder / "precision_recall.png")
        plots.save_fd_curve(own, folder / "fd_curve.png")
        nearest = ([], [])
        compared = SamplesAndPhotos(first, features.features, train or Images(()), reference.all_train)
        if train is not None:
            nearest = compared.nearest_photos()
            plots.save_nearest_panel(compared, nearest, own.extractor.name, folder / "nearest.png")
        if folder == out:
            images = gallery(results, compared, nearest)
            images.write(out / "gallery.json")
            write_page(results, images, out / "report.html")
        if own.sweep:
            plots.save_sweep(own, folder / "sweep.png")
    results.write(out / "results.json")
