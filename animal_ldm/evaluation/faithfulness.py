"""Do images show what their prompts say beyond the class? The CLIP score, and colours and backgrounds as asked.

Colour and background are measured as `prepare --describe` measures photos. Framing and number are not: their measure
needs boxes, and samples have none.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.attributes import Attributes
from ..data.attributes import measure as measure_words
from ..data.captions import asked_words
from ..sampling import Sampling
from .features import FeatureSet, Measurer
from .images import Images
from .report import mean_and_std
from .results import AttributeResult, Metric, RealPhotos

Kind = Literal["colour", "background"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLIP_NOTE = "100 x cosine between the embeddings of each sample and its prompt; of photos, with a caption of theirs"
NOT_TOLD = "not measured: the measure says nothing of any sample that was asked for one"


def clip_score(images: torch.Tensor, texts: torch.Tensor) -> float:
    """100 max(cos, 0) of each image with its text, mean over the pairs (Hessel et al. 2021, arXiv 2104.08718).

    The paper scales by 2.5; 100 is what most implementations report.

    Args:
        images, texts: CLIP's embeddings, (N, D).
    """
    return 100 * float(torch.cosine_similarity(images.double(), texts.double()).clamp(min=0).mean())


# --- measured words --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Described:
    """Of each image: its class, what it is asked to show, and what was measured."""

    labels: Sequence[str]
    asked: Sequence[Attributes]
    told: Sequence[Attributes]

    def rows(self, kind: Kind) -> list[tuple[str, str, str]]:
        """(class, word asked for or "", word measured or "") of each image."""
        return [
            (label, getattr(asked, kind), getattr(told, kind))
            for label, asked, told in zip(self.labels, self.asked, self.told, strict=True)
        ]

    def part(self, images: slice) -> "Described":
        return Described(self.labels[images], self.asked[images], self.told[images])


def asked_of(images: Images) -> list[Attributes]:
    """What each image shall show: of every kind the first word that one of its captions states."""
    found = []
    for label, captions in zip(images.labels or (), images.captions or (), strict=True):
        stated = [asked_words(text, label) for text in captions]
        words = {kind: next(filter(None, (getattr(words, kind) for words in stated)), "") for kind in KINDS}
        found.append(Attributes(**words))
    return found


def described(images: Images, description: str, workers: int) -> Described:
    """Measure the words of all images, without boxes.

    Args:
        description: title of the progress bar.
        workers: processes that share the work; 0 for this one alone.
    """
    loader = DataLoader(_Words(images), batch_size=16, num_workers=workers, collate_fn=list)
    told = []
    with tqdm(total=len(images), desc=description, unit="image", leave=False) as progress:
        for batch in loader:
            told += batch
            progress.update(len(batch))
    return Described(images.labels or (), asked_of(images), told)


class _Words(Dataset):
    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Attributes:
        return measure_words(self.images[index])


@dataclass(frozen=True)
class Share:
    """Of images asked for a word: how many, of how many the measure says any, and the share of these that show it."""

    asked: int
    told: int
    value: float | None


def share_shown(rows: Sequence[tuple[str, str, str]], word: str | None = None) -> Share:
    """Of the images asked for `word`, or with None of those asked for any.

    Args:
        rows: from `Described.rows`.
    """
    found = [(asked, told) for _, asked, told in rows if asked and word in (None, asked)]
    hits = [asked == told for asked, told in found if told]
    return Share(len(found), len(hits), sum(hits) / len(hits) if hits else None)


def share_unasked(rows: Sequence[tuple[str, str, str]], word: str) -> tuple[int, float | None]:
    """Images asked for none of which any is told, and the share of `word`, weighted by class as where it is asked."""
    weights = Counter(label for label, asked, _ in rows if asked == word)
    n, total, value = 0, 0.0, 0.0
    for name, weight in weights.items():
        told = [told == word for label, asked, told in rows if label == name and not asked and told]
        if told:
            n, total, value = n + len(told), total + weight, value + weight * sum(told) / len(told)
    return n, value / total if total else None


def attribute_results(samples: Described, photos: Described) -> Iterator[AttributeResult]:
    """Every word that samples are asked for, the most frequent first.

    Args:
        photos: held-out ones.
    """
    for kind in KINDS:
        rows, real_rows = samples.rows(kind), photos.rows(kind)
        counts = Counter(asked for _, asked, _ in rows if asked)
        for word in sorted(counts, key=lambda word: (-counts[word], word)):
            of_samples, real = share_shown(rows, word), share_shown(real_rows, word)
            n_unasked, unasked = share_unasked(rows, word)
            yield AttributeResult(
                kind=kind,
                word=word,
                n_asked=of_samples.asked,
                n_told=of_samples.told,
                share=of_samples.value,
                n_unasked=n_unasked,
                share_unasked=unasked,
                n_photos_asked=real.asked,
                n_photos_told=real.told,
                share_photos=real.value,
            )


# --- metrics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextReport:
    """What `TextReference.measure` finds, as parts of `Results`."""

    metrics: list[list[Metric]]  # by extractor; those of measured words are with the first
    per_attribute: list[AttributeResult] | None  # None where no prompt asks for a measured word


@dataclass(frozen=True)
class TextReference:
    """Prompts, and held-out photos with their captions, measured once for any number of sample sets.

    Attributes:
        prompts: of the samples.
        measurer: of the samples.
        seed: of the samples.
        n: number of photos.
        scores: by extractor, the CLIP score of the photos with a caption of theirs; None if it does not read.
        described: the photos with a caption that states a colour or background; None without prompts from the data.
    """

    prompts: Sequence[str]
    measurer: Measurer
    seed: int
    n: int
    scores: Sequence[float | None]
    described: Described | None

    def measure(self, samples: Images, sample_sets: Sequence[Sequence[FeatureSet]], sampling: Sampling) -> TextReport:
        """Measure samples whose captions are the prompts.

        Args:
            sample_sets: by extractor, the features of `samples` as sets of equal size.
        """
        n = len(sample_sets[0][0])
        parts = [slice(start, start + n) for start in range(0, n * len(sample_sets[0]), n)]
        common = {
            "better": "higher",
            "repeats": len(parts),
            "n_generated": n,
            "n_real": self.n,
            "k": None,
            "seed": self.seed,
            "sampling": sampling,
        }
        metrics: list[list[Metric]] = [[] for _ in sample_sets]
        for extractor, score, sets, own in zip(
            self.measurer.extractors, self.scores, sample_sets, metrics, strict=True
        ):
            if score is not None:
                texts = extractor.embed_texts(self.prompts)
                scores = [
                    clip_score(found.features.cpu(), texts[part]) for found, part in zip(sets, parts, strict=True)
                ]
                own.append(
                    clip_metric(scores, RealPhotos(self.n, score), common | {"extractor": extractor.describe()})
                )
        if self.described is None or not any(words.words() for words in asked_of(samples)):
            return TextReport(metrics, None)
        found = described(samples, "words of samples", self.measurer.workers)
        common["extractor"] = self.measurer.extractor.describe()
        for kind in KINDS:
            metrics[0] += attribute_metrics(kind, found, parts, self.described, common)
        return TextReport(metrics, list(attribute_results(found, self.described)))


def held_out_texts(
    photos: Images, features: Sequence[FeatureSet], captions: Sequence[str], measurer: Measurer, with_words: bool
) -> tuple[list[float | None], Described | None]:
    """`scores` and `described` of a `TextReference`.

    Args:
        features: of the photos, by extractor.
        captions: one of each photo, chosen as the samples' prompts.
        with_words: whether to measure colours and backgrounds.
    """
    scores = [
        clip_score(found.features.cpu(), extractor.embed_texts(captions)) if extractor.text_network else None
        for extractor, found in zip(measurer.extractors, features, strict=True)
    ]
    if not with_words:
        return scores, None
    stated = [index for index, words in enumerate(asked_of(photos)) if words.words()]
    return scores, described(photos.take(stated), "words of photos", measurer.workers)


def clip_metric(scores: Sequence[float], photos: RealPhotos, common: dict[str, Any]) -> Metric:
    value, std = mean_and_std(scores)
    return Metric(
        name="clip_score", label="CLIP score", value=value, std=std, real_photos=photos, note=CLIP_NOTE, **common
    )


def attribute_metrics(
    kind: Kind, samples: Described, parts: Sequence[slice], photos: Described, common: dict[str, Any]
) -> Iterator[Metric]:
    """The share of samples that show the word of a kind they are asked for; nothing where none is asked for one."""
    whole, real = share_shown(samples.rows(kind)), share_shown(photos.rows(kind))
    if not whole.asked:
        return
    value, std = mean_and_std([share_shown(samples.part(part).rows(kind)).value for part in parts])
    note = (
        f"share of samples that show the {kind} of their prompt, measured without boxes; {whole.asked:,} prompts have "
        f"one, and the measure says nothing of {silent(whole)} of these samples (held-out photos: {silent(real)})"
    )
    yield Metric(
        name=f"{kind}_accuracy",
        label=f"{kind} accuracy",
        value=value,
        std=std,
        real_photos=RealPhotos(real.asked, real.value),
        note=NOT_TOLD if value is None else note,
        **common,
    )


def silent(share: Share) -> str:
    return f"{1 - share.told / share.asked:.0%}" if share.asked else "none asked"
