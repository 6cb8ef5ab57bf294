"""Where the results of a model lie, and its samples beside them: folders, files and the Hub."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..fetching import HUB_ID, fetched
from ..released import is_pipeline_folder, model_folder
from ..sampling import Sampling
from .images import Images
from .results import Results, SamplingInfo, parse, read_results

RESULTS = "evaluation/*/results.json"
MOST_ROWS = 12  # of samples


@dataclass(frozen=True)
class Source:
    """The results of one model."""

    name: str  # different for every source
    results: Mapping[str, Results]  # {extractor: what it found}
    folder: Path  # the evaluation's

    @property
    def first(self) -> Results:
        return next(iter(self.results.values()))


def find_sources(given: Sequence[str]) -> list[Source]:
    """The results of every model given, with names that tell them apart.

    Args:
        given: pipeline folders, folders that `animal-ldm evaluate` wrote, `results.json` files, ids on the Hub.

    Raises:
        InputError: one of them has no results, or they cannot be read.
    """
    found = [source_of(one) for one in given]
    by_model = [source.name for source in found]
    if len(set(by_model)) < len(found):  # one model with several settings: the folders tell them apart
        places = [Path(one).parent if one.endswith(".json") else Path(one) for one in given]
        found = [replace(source, name=place.resolve().name) for source, place in zip(found, places, strict=True)]
    names = [source.name for source in found]
    return [
        source
        if names.count(source.name) == 1
        else replace(source, name=f"{source.name} ({names[:i].count(source.name) + 1})")
        for i, source in enumerate(found)
    ]


def source_of(given: str) -> Source:
    files = result_files(given)
    results = {own.extractor.name: own for file in files for own in all_results(file)}
    return Source(next(iter(results.values())).model.name, results, files[0].parent)


def all_results(file: Path) -> list[Results]:
    results = read_results(file)
    results.check()
    return results.each()


def result_files(given: str) -> list[Path]:
    """The `results.json` files of what was given, one for each evaluation."""
    path = Path(model_folder(given))
    if path.is_file():
        return [path]
    if (path / "results.json").is_file():
        return [path / "results.json"]
    if is_pipeline_folder(path):
        own = Path("evaluation", path.name, "results.json")  # where `animal-ldm evaluate` writes by default
        return files_in(path, given) if not own.is_file() else [own]
    if path.exists():
        raise InputError(
            f"{given} holds neither results.json nor a pipeline. Pass a folder that `animal-ldm evaluate` wrote, a "
            "pipeline folder with its evaluation, or the id of a model on the Hub."
        )
    if not re.fullmatch(HUB_ID, given):
        raise InputError(f"There is no file or folder {given}, and it is not an id on the Hub such as owner/name.")
    try:
        folder = fetched(given, [RESULTS])
    except InputError as error:
        raise InputError(
            f"There is no folder {given}, and no model of that name could be read from the Hub. ({error})"
        ) from error
    return files_in(folder, given)


def files_in(folder: Path, given: str) -> list[Path]:
    files = sorted(folder.glob(RESULTS))
    if not files:
        raise InputError(f"{given} has no results yet: run `animal-ldm evaluate {given} --data DATA` first.")
    return files


# --- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleRow:
    """One prompt and seed, as every model samples it."""

    prompt: str
    seed: int
    images: list[np.ndarray | None]  # uint8 (H, W, 3); None where a model has none


def same_seeds(sources: Sequence[Source]) -> list[SampleRow]:
    """Samples of the same prompts and seeds that at least two models have on disk, the first of every class."""
    found = [{key: file for key, file in samples_of(source)} for source in sources]
    having = [files for files in found if files]
    common = set.intersection(*map(set, having)) if len(having) > 1 else set()
    first_of: dict[str, tuple[int, str]] = {}
    for seed, prompt in sorted(common):
        first_of.setdefault(re.sub(r" [0-9a-f]{12}$", "", prompt), (seed, prompt))
    rows = []
    for key in sorted(first_of.values(), key=lambda key: key[1])[:MOST_ROWS]:
        images = [Images((files[key],))[0] if key in files else None for files in found]
        rows.append(SampleRow(key[1], key[0], images))
    return rows


def samples_of(source: Source) -> Iterator[tuple[tuple[int, str], Path]]:
    """((seed, prompt), file) of every sample that these results were measured on and that is still there."""
    sampling, digest = source.first.sampling, source.first.model.digest
    for file in sorted(source.folder.glob("samples/*/settings.json")) if sampling else ():
        settings = json.loads(file.read_text(encoding="utf-8"))
        if sampling and (settings["model"], settings["seed"]) == (digest, sampling.seed) and same(settings, sampling):
            for image in sorted(file.parent.glob("*.png")):
                number, _, label = image.stem.partition("_")
                name = label.replace("_", " ")
                # Captions are not recorded: the class and the digest in the file's name stand for one.
                prompt = name if sampling.prompts_from == "data" else sampling.prompts.get(name)
                if number.isdecimal() and prompt:
                    yield (sampling.seed + int(number), prompt), image


def same(settings: dict, sampling: SamplingInfo) -> bool:
    """Whether a folder of samples was made with these settings."""
    found = parse(Sampling, settings["sampling"])  # with the defaults of what an earlier version did not store
    return found == sampling.settings() and settings["dtype"].endswith(f".{sampling.dtype}")
