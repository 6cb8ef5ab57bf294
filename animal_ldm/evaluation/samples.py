"""Samples of a model on disk: image `i` is a function of the model, the settings and `i` alone.

Neither the batch size, nor the number of processes, nor an interruption changes an image. An interrupted run resumes,
and a longer run keeps the samples of a shorter one.
"""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from ..data.captions import with_article
from ..digest import pipeline_digest
from ..files import whole_file, write_json
from ..pipeline_animal_ldm import AnimalLDMPipeline
from ..sampling import Sampling, quiet, sample_images
from .images import Images


def classes_of_samples(counts: Mapping[str, int], n: int) -> list[str]:
    """Class names for n samples in proportion to `counts`; so is every prefix, to within one sample."""
    return list(islice(_classes(counts), n))


def _classes(counts: Mapping[str, int]) -> Iterator[str]:
    total, chosen = sum(counts.values()), dict.fromkeys(counts, 0)
    for n in count(1):
        name = max(chosen, key=lambda name: (n * counts[name] / total - chosen[name], name))
        chosen[name] += 1
        yield name


def prompt_of(label: str) -> str:
    """The prompt for samples of a class: "a zebra" for "zebra"."""
    return with_article(label)


def caption_prompts(labels: Sequence[str], photos: Images) -> list[str]:
    """A prompt for each sample: the k-th sample of a class takes a caption of the k-th photo of that class.

    After the last photo comes the first again. So the texts are distributed as those of the photos, and the photos'
    own labels give each photo its own caption. Of several captions of a photo a hash of the class and k takes one.

    Args:
        labels: class of each sample.
    """
    captions = defaultdict(list)
    for label, texts in zip(photos.labels or (), photos.captions or (), strict=True):
        captions[label].append(texts)
    texts, ranks = [], Counter()
    for label in labels:
        of_photo = captions[label][ranks[label] % len(captions[label])]
        draw = hashlib.sha256(f"caption {ranks[label]} of {label}".encode()).digest()
        texts.append(of_photo[int.from_bytes(draw[:8]) % len(of_photo)])
        ranks[label] += 1
    return texts


@dataclass(frozen=True)
class CachedSampler:
    """Samples a pipeline to PNG files, a folder per model and settings; files that exist are kept."""

    pipeline: AnimalLDMPipeline
    folder: Path
    batch_size: int = 32
    # Accelerate's state, when every process makes the same calls and the samples shall be shared among them.
    state: PartialState | None = None

    def sample(
        self, labels: Sequence[str], sampling: Sampling, seed: int, prompts: Sequence[str] | None = None
    ) -> Images:
        """A sample for each label, with its prompt as its caption.

        Args:
            labels: class of each sample.
            seed: sample i starts from the noise of seed + i.
            prompts: of each sample; by default "a zebra" for the label "zebra".
        """
        folder = self._folder_of(sampling, seed)
        prompts = [*map(prompt_of, labels)] if prompts is None else prompts
        asked = zip(labels, prompts, strict=True)
        files = tuple(folder / f"{i:06d}_{name_of(label, text)}.png" for i, (label, text) in enumerate(asked))
        rank, processes = (self.state.process_index, self.state.num_processes) if self.state else (0, 1)
        missing = [i for i, file in enumerate(files) if not file.is_file()][rank::processes]
        self._wait()  # before anyone writes: all must find the same images missing
        self.pipeline.set_progress_bar_config(disable=True)
        sampled = sample_images(
            self.pipeline,
            [prompts[i] for i in missing],
            [seed + i for i in missing],
            sampling,
            self.batch_size,
        )
        with (
            quiet(self.pipeline),
            tqdm(total=len(missing), desc="samples", unit="image", disable=rank > 0, leave=False) as progress,
        ):
            for i, image in zip(missing, sampled, strict=True):
                with whole_file(files[i]) as partial:
                    image.save(partial, format="png")
                progress.update()
        self._wait()
        return Images(files, tuple(labels), tuple((text,) for text in prompts))

    def _folder_of(self, sampling: Sampling, seed: int) -> Path:
        settings = {
            "model": pipeline_digest(self.pipeline),
            "dtype": str(self.pipeline.unet.dtype),
            "seed": seed,
            "sampling": dataclasses.asdict(sampling),
        }
        identity = json.dumps(settings, sort_keys=True)
        folder = self.folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
        write_json(folder / "settings.json", settings)
        return folder

    def _wait(self) -> None:
        if self.state:
            self.state.wait_for_everyone()


def name_of(label: str, text: str) -> str:
    """The part of a sample's file name that tells its prompt: other prompts keep the samples they have in common."""
    name = label.replace(" ", "_")
    return name if text == prompt_of(label) else f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
