"""`animal-ldm tune`: the best sampling settings of a pipeline, within a stated time -> its defaults."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..errors import InputError
from ..released import is_pipeline_folder
from ..sampling import Sampling
from .ema import check_sigma_rel
from .parsing import parse
from .trainers import show_progress


@dataclass(frozen=True, kw_only=True)
class TuneArguments:
    """Search the sampling settings that suit a model best, and make them its defaults.

    One setting after the other is varied, and the best value kept: the lowest kernel distance to the validation
    photos, among near ties the highest recall, never with a lower prompt accuracy than the default. All settings are
    compared on the same seeds; the winner is then compared with the default on fresh ones, and replaces it only if it
    is better beyond the error.

    Writes tune.json, tune.md, tune.png and tune_samples.png. A pipeline folder gets the winner as its defaults, which
    the pipeline, `generate`, `evaluate` and `demo` take up; options still override them. An interrupted search resumes
    with the same command.
    """

    # Pipeline folder, or the id of a model on the Hub, whose settings are searched but not stored.
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    # Prepared dataset, as `animal-ldm prepare` writes it. Samples are compared with its validation photos; training
    # photos serve to measure prompt accuracy.
    data: Path
    # Time for everything, in minutes: 60 % of it for the search. The speed is measured first, and the plan printed.
    max_minutes: float = 30
    # Samples per setting. Default: as many as the time allows.
    number: Annotated[int | None, tyro.conf.arg(aliases=["-n"])] = None
    # Fresh samples of the winner and of the default. Default: as many as the time left allows.
    confirm_number: int | None = None
    # Guidance scales to try. The two halfway between the best one and its neighbours are tried last.
    guidance_scale: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0)
    # Schedulers to try.
    scheduler: tuple[Literal["ddim", "euler_ancestral", "sde_dpm"], ...] = ("ddim", "euler_ancestral", "sde_dpm")
    # Guidance intervals to try, START STOP each, as fractions of the steps: 0 is the noisiest.
    guidance_interval: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.2, 1.0), (0.2, 0.8), (0.3, 0.8))
    # Guidance rescales to try, from 0 to 1.
    guidance_rescale: tuple[float, ...] = (0.0, 0.5)
    # Scales of perturbed-attention guidance to try.
    pag_scale: tuple[float, ...] = (0.0, 3.0)
    # Numbers of steps to try.
    num_inference_steps: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--steps"])] = (25, 40)
    # Lengths of the averaged weights to try, if MODEL was trained with --ema_snapshots_every; see `animal-ldm ema`.
    # If one of them wins, the model with these weights is written to OUT/model, and MODEL stays as it is.
    sigma_rel: tuple[float, ...] = ()
    # Network that measures the images, as in `animal-ldm evaluate`.
    extractor: str = "inception"
    # The extractor's weights, as in `animal-ldm evaluate`.
    extractor_weights: Path | None = None
    # Sample i of the search starts from the noise of seed + i; the fresh ones follow a million seeds later.
    seed: int = 0
    # Do not store the winner in the pipeline folder.
    dry_run: bool = False
    # Folder to write to; by default tuning/ followed by the model's name.
    out: Path | None = None
    # Folder for downloaded weights and the photos' features; by default a folder in the user's Hugging Face cache.
    cache_dir: Path | None = None
    # Device to run on, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"
    # Number type of the model's weights and activations; features are always measured in float32.
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # Images sampled and measured at a time.
    batch_size: int = 32
    # Processes that read and resize images.
    workers: int = min(4, os.cpu_count() or 1)

    def space(self) -> dict[str, tuple]:
        """Values to try, by name of the setting."""
        return {
            "guidance_scale": self.guidance_scale,
            "sigma_rel": self.sigma_rel,
            "scheduler": self.scheduler,
            "guidance_interval": self.guidance_interval,
            "guidance_rescale": self.guidance_rescale,
            "pag_scale": self.pag_scale,
            "num_inference_steps": self.num_inference_steps,
        }


def check(arguments: TuneArguments) -> None:
    """Raise an `InputError` for what can be told without the model."""
    if arguments.max_minutes <= 0:
        raise InputError(f"--max_minutes must be greater than 0, but is {arguments.max_minutes:g}.")
    for name, least in (("number", 12), ("confirm_number", 12), ("batch_size", 1), ("workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, but is {value}.")
    for name, values in arguments.space().items():
        for value in values:
            if name == "sigma_rel":
                check_sigma_rel(value)
            elif name != "scheduler":
                Sampling(**{name: value}).check()


def main(argv: list[str] | None = None) -> None:
    arguments = parse(TuneArguments, argv, prog="animal-ldm tune")
    check(arguments)
    from ..evaluation import tuning_report
    from ..evaluation.extractors import load_extractor
    from ..evaluation.features import Measurer
    from ..evaluation.images import images_of_dataset
    from ..evaluation.tuning import Tuner, TuneSettings
    from ..files import cache_root
    from ..loading import choose_device, load_pipeline, store_sampling_defaults
    from ..locks import locked
    from ..training.ema import averaged_weights, load_weights, snapshots_of, write_averaged_pipeline

    show_progress()
    if arguments.sigma_rel:
        snapshots_of(arguments.model)  # before anything slow
    photos = images_of_dataset(arguments.data)
    device = choose_device(arguments.device)
    pipeline = load_pipeline(arguments.model, str(device), arguments.dtype)
    extractor = load_extractor(arguments.extractor, arguments.extractor_weights, device, arguments.cache_dir)
    cache = cache_root(arguments.cache_dir) / "features"
    settings = TuneSettings(
        model_name=Path(arguments.model).name,
        data_name=arguments.data.name,
        out=arguments.out or Path("tuning") / Path(arguments.model).name,
        space=arguments.space(),
        seed=arguments.seed,
        max_minutes=arguments.max_minutes,
        number=arguments.number,
        confirm_number=arguments.confirm_number,
        load_average=lambda pipeline, length: load_weights(pipeline, averaged_weights(arguments.model, length)[0]),
    )
    tuner = Tuner(
        pipeline, photos, Measurer(extractor, arguments.batch_size, arguments.workers, cache=cache), settings
    )
    with locked(settings.out / ".lock", f"--out {settings.out}"):
        found = tuner.run()
        tuning_report.write(found, tuner.shown(), settings.out)
    print(tuning_report.report(found))
    print(f"tune.json, tune.md and pictures: {settings.out}")
    if found.chosen == found.default or found.chosen is None:
        return
    if arguments.dry_run or not is_pipeline_folder(arguments.model):
        print("The winner was not stored.")
        return
    target = Path(arguments.model)
    if found.chosen.sigma_rel is not None:
        target = settings.out / "model"
        write_averaged_pipeline(arguments.model, target, found.chosen.sigma_rel)
    store_sampling_defaults(target, found.chosen.settings(), tuner.schedulers[found.chosen.scheduler])
    print(f"Stored as the defaults of {target}.")
