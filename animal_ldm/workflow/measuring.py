"""The stages that measure: the search for the guidance scale, and the evaluation."""

import logging
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..data.prepare import SPLITS
from ..data.prepared import has_split, load_split
from ..errors import InputError, MachineError
from ..evaluation import tuning_report
from ..evaluation.evaluate import EvaluationSettings, evaluate
from ..evaluation.extractors import load_extractor
from ..evaluation.features import Measurer
from ..evaluation.images import Images, images_of_dataset
from ..evaluation.reconstruction import reconstruct
from ..evaluation.samples import CachedSampler, classes_of_samples, prompt_of
from ..evaluation.tuning import COORDINATES, Tuner, TuneSettings
from ..files import cache_root
from ..loading import choose_device, load_pipeline, store_sampling_defaults
from ..perceptual import PerceptualDistance
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import Sampling, quiet, sample_images
from .budget import Measured, photos_to_measure, samples_to_generate
from .job import LEAST_SECONDS, Job, seconds_of

logger = logging.getLogger(__name__)

# Photos of either split below which nothing is measured: metrics look at the 10 nearest neighbours of a photo.
LEAST_PHOTOS = 12
# Images that are generated, measured and reconstructed to learn how long one takes.
TIMED_IMAGES = 8
GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0, 6.0)


# --- tune ------------------------------------------------------------------------------------------------------------


def tune_the_guidance(job: Job) -> None:
    """Make the guidance scale that `animal-ldm tune` finds the model's default, if it is better beyond the error."""
    if not job.settings.tune_guidance:
        return
    if too_few_photos(job.data):
        job.facts["not_tuned"] = f"that needs {LEAST_PHOTOS} training and validation photos each."
        return
    minutes = job.facts.setdefault("minutes", job.seconds / 60)  # a search goes on with the time it was begun with
    job.save()
    pipeline, measurer = load_pipeline(str(job.model)), measurer_of(job)
    space = dict.fromkeys(COORDINATES, ()) | {"guidance_scale": GUIDANCE_SCALES}
    settings = TuneSettings(
        model_name=job.out.name, data_name="data", out=job.tuning, space=space, seed=0, max_minutes=minutes
    )
    try:
        tuner = Tuner(pipeline, images_of_dataset(job.data), measurer, settings)
        found = tuner.run()
    except MachineError:
        raise
    except InputError as error:  # the time does not suffice on this device
        job.facts["not_tuned"] = str(error)
        logger.info("the guidance scale stays as it is: %s", error)
        return
    tuning_report.write(found, tuner.shown(), job.tuning)
    logger.info("%s", found.verdict)
    if found.chosen not in (None, found.default):
        store_sampling_defaults(job.model, found.chosen.settings(), tuner.schedulers[found.chosen.scheduler])


def measurer_of(job: Job) -> Measurer:
    """The extractor of the settings, on the device of this machine."""
    device = choose_device()
    weights = job.squeezenet_weights if job.settings.extractor == "squeezenet" else None
    extractor = load_extractor(job.settings.extractor, weights, device)
    return Measurer(extractor, 8 if device.type == "cpu" else 64, workers=0, cache=cache_root() / "features")


# --- evaluate --------------------------------------------------------------------------------------------------------


def measure_the_model(job: Job) -> None:
    """Measure as many samples as fit into the time, which is measured all along.

    A trial with the fewest samples comes first: it says what everything but the sampling takes, and its results stay
    if there is no time for more.
    """
    start = time.perf_counter()
    train, validation = photo_counts(job.data)
    if min(train, validation) < LEAST_PHOTOS:
        return leave_unmeasured(
            job,
            f"{train} training and {validation} validation photos are too few: the metrics need {LEAST_PHOTOS} each."
            f" About {LEAST_PHOTOS * 5} photos in all would do.",
        )
    if job.seconds <= LEAST_SECONDS:
        return leave_unmeasured(job, no_time(job))
    evaluation = Evaluation(job, load_pipeline(str(job.model)), measurer_of(job))
    cost = evaluation.time_images()
    if LEAST_PHOTOS * (cost.sample + cost.photo) > job.seconds:
        return leave_unmeasured(job, no_time(job))
    job.facts.pop("not_measured", None)
    if "held_out" not in job.facts:  # an interrupted evaluation goes on with the photos it has measured
        number = photos_to_measure(job.seconds, cost, LEAST_PHOTOS, train, validation)
        job.facts |= dict(zip(("photos", "held_out"), number, strict=True))
        job.save()
    evaluation.choose_photos(job.facts["photos"], job.facts["held_out"])
    done = tried = max(LEAST_PHOTOS, min(job.settings.samples, evaluation.samples_on_disk()))
    evaluation.prepare(tried)
    rest = seconds_of(lambda: evaluation.run(tried))
    while True:
        # the samples since the trial have no features yet
        left = job.seconds - (time.perf_counter() - start) - (done - tried) * cost.photo
        goal = samples_to_generate(left, cost, rest, done, job.settings.samples)
        if goal <= done:
            break
        goal = min(goal, done + max(TIMED_IMAGES, (goal - done) // 4))  # then the speed is looked at again
        cost = replace(cost, sample=seconds_of(lambda goal=goal: evaluation.sample(goal)) / (goal - done))
        done = goal
    logger.info(
        "%.2f s per sample, %.1f s for the metrics: %d samples against %d of %d training, %d of %d validation photos",
        cost.sample, rest, done, job.facts["photos"], train, job.facts["held_out"], validation,
    )  # fmt: skip
    job.facts |= {"samples": done, "seconds_per_sample": cost.sample}
    job.save()
    if done > tried:
        evaluation.run(done)


@dataclass
class Evaluation:
    """An evaluation of the trained model with any number of samples. What one has computed serves the next."""

    job: Job
    pipeline: AnimalLDMPipeline
    measurer: Measurer
    photos: dict[str, Images] = field(init=False)
    sampling: Sampling = field(init=False)

    def __post_init__(self) -> None:
        self.photos = images_of_dataset(self.job.data)
        self.sampling = Sampling(**self.pipeline.sampling_defaults)
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def samples_folder(self) -> Path:
        return self.job.evaluation / "samples"

    @property
    def reconstructions_folder(self) -> Path:
        return self.job.evaluation / "reconstructions"

    def sample(self, number: int) -> Images:
        """The first `number` samples of the evaluation; those that are there already take no time."""
        labels = classes_of_samples(Counter(self.photos["train"].labels), number)
        sampler = CachedSampler(self.pipeline, self.samples_folder, self.measurer.batch_size)
        return sampler.sample(labels, self.sampling, self.job.settings.seed)

    def samples_on_disk(self) -> int:
        """Of earlier starts."""
        return len(list(self.samples_folder.glob("*/*.png")))

    def time_images(self) -> Measured:
        """How long an image takes. The samples are other ones than those of the evaluation, which may be there."""
        some, count = self.photos["validation"].take(range(TIMED_IMAGES)), TIMED_IMAGES
        labels = classes_of_samples(Counter(self.photos["train"].labels), count)
        prompts, seeds = [*map(prompt_of, labels)], range(count)
        with quiet(self.pipeline):
            sample = seconds_of(lambda: [*sample_images(self.pipeline, prompts, seeds, self.sampling, count)])
        photo = seconds_of(lambda: self.measurer.with_cache(None).features(some))
        with tempfile.TemporaryDirectory() as folder:  # nothing of an earlier start is there
            reconstruction = seconds_of(lambda: reconstruct(self.pipeline.vae, some, Path(folder), count))
        return Measured(sample / count, photo / count, reconstruction / count)

    def choose_photos(self, train: int, validation: int) -> None:
        """Keep so many of each split, at random."""
        for split, number in (("train", train), ("validation", validation)):
            chosen = np.random.default_rng(self.job.settings.seed).permutation(len(self.photos[split]))[:number]
            if number < len(self.photos[split]):
                self.photos[split] = self.photos[split].take(sorted(chosen))

    def prepare(self, samples: int) -> None:
        """Compute what `run` finds in its caches."""
        for images in self.photos.values():
            self.measurer.feature_sets(images, "photos")
        reconstruct(
            self.pipeline.vae, self.photos["validation"], self.reconstructions_folder, self.measurer.batch_size
        )
        self.measurer.with_cache(self.job.evaluation / "features").feature_sets(self.sample(samples), "samples")

    def run(self, samples: int) -> None:
        """Measure, and write the results."""
        job = self.job
        settings = EvaluationSettings(
            model_name=job.out.name,
            data_name="data",
            out=job.evaluation,
            number=samples,
            seed=job.settings.seed,
            sampling=self.sampling,
            reconstructions=True,
            perceptual=PerceptualDistance(job.squeezenet_weights) if job.has_squeezenet else None,
        )
        evaluate(self.pipeline, self.photos, self.measurer, settings)


def leave_unmeasured(job: Job, reason: str) -> None:
    job.facts["not_measured"] = reason
    logger.info("not measured: %s", reason)


def no_time(job: Job) -> str:
    return (
        f"the time did not suffice for {LEAST_PHOTOS} samples. To measure: animal-ldm evaluate {job.model} --data"
        f" {job.data} --extractor {job.settings.extractor} --out {job.evaluation}"
    )


def photo_counts(data: Path) -> tuple[int, ...]:
    """Training and validation photos."""
    return tuple(len(load_split(data, split)) if has_split(data, split) else 0 for split in SPLITS)


def too_few_photos(data: Path) -> bool:
    """Whether the photos are too few for the evaluation."""
    return min(photo_counts(data)) < LEAST_PHOTOS
