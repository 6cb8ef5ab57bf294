"""One evaluation: a model's samples and real photos -> `Results`, written as `results.json` with plots."""

from collections import Counter
from collections.abc import Mapping
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
from .features import FeatureSet, Measurer
from .gallery import SamplesAndPhotos, gallery
from .images import Images
from .page import write_page
from .reconstruction import measure_reconstructions, reconstruct
from .report import Reference, Report, measure
from .results import AutoencoderResult, DataInfo, ModelInfo, Results, SamplingInfo, Sweep, SweepPoint
from .samples import CachedSampler, classes_of_samples, prompt_of

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
    repeats: int = 1
    sweep: SweepSettings | None = None
    reconstructions: bool = False
    perceptual: PerceptualDistance | None = None  # for the reconstructions' LPIPS; None: not measured


def evaluate(
    model: AnimalLDMPipeline | Images,
    photos: Mapping[str, Images],
    measurer: Measurer,
    settings: EvaluationSettings,
) -> Results:
    """Measure a model's samples, or images that were generated before, and write results.json and the plots.

    Samples, reconstructions and their features are kept below `settings.out`: an interrupted run resumes.

    Args:
        photos: the photos of both splits, {"train": …, "validation": …}.
        measurer: its cache keeps the photos' features; its batch size is that of the sampling too. With its state,
            every process makes this call.
    """
    reference = measure_reference(photos, measurer, settings.split)
    classes = Counter(photos[settings.split].labels)
    of_samples = measurer.with_cache(settings.out / "features")
    info, sampling_info, sweep, autoencoder = ModelInfo(settings.model_name, None), None, None, None
    if isinstance(model, Images):
        samples = choose_images(model, classes, settings)
        sample_sets = of_samples.feature_set(samples, "samples").split(1)
        report = measure(reference, sample_sets, settings.seed)
    else:
        run = PipelineRun(model, reference, of_samples, settings, class_labels(classes, settings))
        info, sampling_info = replace(info, digest=pipeline_digest(model)), run.sampling_info()
        samples, sample_sets = run.sample(settings.sampling)
        sweep, autoencoder = run.sweep(), run.reconstructions(photos["validation"])
        report = measure(reference, sample_sets, settings.seed, settings.sampling)
    results = Results(
        model=info,
        data=describe_data(photos, classes, settings),
        extractor=reference.extractor,
        sampling=sampling_info,
        metrics=report.metrics,
        fd_curves=report.fd_curves,
        per_class=report.per_class,
        sweep=sweep,
        autoencoder=autoencoder,
        versions=library_versions(*LIBRARIES),
    )
    if measurer.is_main_process:
        first = samples.take(range(len(sample_sets[0])))
        compared = SamplesAndPhotos(first, sample_sets[0].features, photos["train"], reference.train.features)
        write(results, compared, settings.out)
    return results


def measure_reference(photos: Mapping[str, Images], measurer: Measurer, split: str) -> Reference:
    """The photos of both splits, measured, with `split` for the reference.

    Their features stay in the measurer's cache: they serve every model that is compared with the photos.
    """
    train, validation = (measurer.feature_set(photos[name], f"{name} photos") for name in ("train", "validation"))
    return Reference(measurer.extractor.describe(), train, validation, split, measurer.state)


def describe_data(photos: Mapping[str, Images], classes: Counter[str], settings: EvaluationSettings) -> DataInfo:
    return DataInfo(
        name=settings.data_name,
        reference=settings.split,
        held_out="validation" if settings.split == "train" else "train",
        photos={split: len(images) for split, images in photos.items()},
        digests={split: images.digest() for split, images in photos.items()},
        classes=dict(classes.most_common()),
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


@dataclass(frozen=True)
class PipelineRun:
    """An evaluation of a pipeline: samples with any settings, measured against one reference."""

    pipeline: AnimalLDMPipeline
    reference: Reference
    measurer: Measurer  # for samples
    settings: EvaluationSettings
    labels: list[str]  # class of each sample

    def sampling_info(self) -> SamplingInfo:
        settings = self.settings
        return SamplingInfo(
            **asdict(settings.sampling),
            seed=settings.seed,
            class_mix=settings.class_mix,
            prompts={label: prompt_of(label) for label in sorted(set(self.labels))},
            scheduler=type(self.pipeline.scheduler).__name__,
            dtype=str(self.pipeline.unet.dtype).removeprefix("torch."),
            image_size=self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor,
        )

    def sample(self, sampling: Sampling) -> tuple[Images, list[FeatureSet]]:
        """All samples, and their features as `repeats` sets."""
        out, measurer = self.settings.out, self.measurer
        sampler = CachedSampler(self.pipeline, out / "samples", measurer.batch_size, measurer.state)
        samples = sampler.sample(self.labels, sampling, self.settings.seed)
        return samples, measurer.feature_set(samples, "samples").split(self.settings.repeats)

    def report(self, sampling: Sampling) -> Report:
        _, sample_sets = self.sample(sampling)
        return measure(self.reference, sample_sets, self.settings.seed, sampling)

    def sweep(self) -> Sweep | None:
        """Metrics at each value of the swept parameter."""
        sweep = self.settings.sweep
        if sweep is None:
            return None
        points = []
        for value in sweep.values:
            changed = replace(self.settings.sampling, **{sweep.parameter: value})
            points.append(SweepPoint(value, self.report(changed).metrics))
        return Sweep(sweep.parameter, points)

    def reconstructions(self, photos: Images) -> AutoencoderResult | None:
        settings, measurer = self.settings, self.measurer
        if not settings.reconstructions:
            return None
        folder = settings.out / "reconstructions"
        images = reconstruct(self.pipeline.vae, photos, folder, measurer.batch_size, measurer.state)
        return measure_reconstructions(photos, images, self.reference, measurer, settings.perceptual, settings.seed)


def write(results: Results, compared: SamplesAndPhotos, out: Path) -> None:
    """results.json, the report and the plots. The file comes last: where it is, those are of the same run."""
    nearest = compared.nearest_photos()
    images = gallery(results, compared, nearest)
    images.write(out / "gallery.json")
    write_page(results, images, out / "report.html")
    plots.save_sample_grid(compared.samples, results, out / "samples.png")
    plots.save_precision_recall(results, out / "precision_recall.png")
    plots.save_fd_curve(results, out / "fd_curve.png")
    plots.save_nearest_panel(compared, nearest, results.extractor.name, out / "nearest.png")
    if results.sweep:
        plots.save_sweep(results, out / "sweep.png")
    results.write(out / "results.json")
