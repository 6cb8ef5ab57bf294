"""A few samples against the validation photos, to follow a training and to choose its best weights."""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..data.prepared import load_split
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import Sampling
from .features import Measurer
from .images import images_of_split
from .kernel_distance import kernel_distance
from .metrics import frechet_distance_of_features
from .report import small_sample_note
from .results import ExtractorInfo
from .samples import CachedSampler, caption_prompts, classes_of_samples


@dataclass(frozen=True, kw_only=True)
class QuickSettings:
    """What to sample for a quick evaluation."""

    number: int  # of samples, their classes in proportion to the validation photos'
    seed: int  # sample i starts from the noise of seed + i
    folder: Path  # holds the samples while they are measured
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class QuickEvaluation:
    """Distances between samples and the validation photos; `extractor` says what they may be called."""

    kernel_distance: float
    kernel_distance_std: float  # over its random subsets
    subset_size: int
    frechet_distance: float
    note: str | None  # how to read the Frechet distance
    n_generated: int
    n_real: int
    seed: int
    extractor: ExtractorInfo
    sampling: Sampling
    split: str = "validation"
    prompts: str = "classes"  # or "data": captions of the validation photos


def quick_evaluation(
    pipeline: AnimalLDMPipeline, prepared: str | Path, measurer: Measurer, settings: QuickSettings
) -> QuickEvaluation:
    """Sample, measure and compare with the code of `animal-ldm evaluate`, on the weights that the pipeline holds now.

    The samples are removed at the end. The photos' features are kept in the measurer's cache.

    Args:
        prepared: a prepared dataset.
        measurer: its batch size is that of the sampling too; with its state, every process makes this call.
    """
    split = load_split(prepared, "validation")
    photos = images_of_split(split)
    real = measurer.features(photos, "validation photos")
    labels = classes_of_samples(Counter(photos.labels), settings.number)
    folder = settings.folder / "samples"
    sampler = CachedSampler(pipeline, folder, measurer.batch_size, measurer.state)
    prompts = caption_prompts(labels, photos) if split.says_more_than_classes else None
    samples = sampler.sample(labels, settings.sampling, settings.seed, prompts)
    fake = measurer.with_cache(None).features(samples, "samples")
    if measurer.is_main_process:
        shutil.rmtree(folder)
    kernel = kernel_distance(real, fake, seed=settings.seed)
    return QuickEvaluation(
        kernel_distance=kernel.mean,
        kernel_distance_std=kernel.std,
        subset_size=kernel.subset_size,
        frechet_distance=frechet_distance_of_features(real, fake),
        note=small_sample_note(measurer.extractor.name, *fake.shape),
        n_generated=len(fake),
        n_real=len(real),
        seed=settings.seed,
        extractor=measurer.extractor.describe(),
        sampling=settings.sampling,
        prompts="data" if prompts else "classes",
    )
