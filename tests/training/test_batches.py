"""Which caption a photo gets: each of its own equally often, as a function of the generator alone."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from animal_ldm.data.prepared import PreparedSplit
from animal_ldm.training.batches import Batch, Batches, DiffusionProcess, EncodedPhotos, prepared_along
from animal_ldm.training.cache import Cache
from animal_ldm.training.execution import Execution
from animal_ldm.training.stream import ImageStream, own_rows
from animal_ldm.training.text import Captions
from tests.conftest import tiny_text_encoder, tiny_tokenizer

CAPTIONS = (("a lion",), ("a zebra", "two zebras", "a zebra, close-up"), ("",))


@pytest.fixture
def encoded(tmp_path):
    def build(captions: tuple[tuple[str, ...], ...]) -> EncodedPhotos:
        split = PreparedSplit(Path("photos"), tuple("abc"), captions, ("lion", "zebra", ""))
        tokenizer = tiny_tokenizer()
        table = Captions(
            Cache(Accelerator(), tmp_path), split.all_captions, tokenizer, tiny_text_encoder(tokenizer), frozen=False
        )
        moments = np.random.default_rng(0).normal(size=(3, 2, 2, 4, 8, 8)).astype(np.float16)
        return EncodedPhotos(split, moments, table, DiffusionProcess(1.0, 1000))

    return build


def texts_of(photos: EncodedPhotos, chosen: list[int], seed: int, dropout: float = 0.0) -> list[str]:
    noise = torch.zeros(len(chosen), 2, 4, 8, 8)
    batch = photos.batch(np.array(chosen), torch.Generator().manual_seed(seed), dropout, noise)
    known = {tuple(photos.captions.table[number]): text for text, number in photos.captions.index.items()}
    return [known[tuple(ids.tolist())] for ids in batch.captions]


def test_every_caption_of_a_photo_is_used_equally_often(encoded):
    texts = texts_of(encoded(CAPTIONS), [1] * 3000, seed=0)
    counts = {text: texts.count(text) for text in CAPTIONS[1]}
    assert sum(counts.values()) == 3000
    assert all(900 < count < 1100 for count in counts.values())


def test_photos_keep_their_own_captions(encoded):
    photos = encoded(CAPTIONS)
    for seed in range(20):
        lion, zebra, unknown = texts_of(photos, [0, 1, 2], seed)
        assert (lion, unknown) == ("a lion", "") and zebra in CAPTIONS[1]
        assert texts_of(photos, [0, 1, 2], seed) == [lion, zebra, unknown]
    assert texts_of(photos, [0, 1, 2], 0, dropout=1.0) == ["", "", ""]


def test_validation_losses_stay_comparable(encoded):
    """Noise, captions and timesteps of the validation batch are those of earlier versions."""
    for captions in (CAPTIONS, (("a lion",), ("a zebra",), ("",))):
        batch = encoded(captions).validation_batch(0)
        generator = torch.Generator().manual_seed(0)
        torch.randint(2, (3,), generator=generator)
        torch.randn((3, 4, 8, 8), generator=generator)
        noise = torch.randn((3, 4, 8, 8), generator=generator)
        torch.randint(1000, (3,), generator=generator)
        torch.rand(3, generator=generator)
        if captions is CAPTIONS:
            torch.rand(3, generator=generator, dtype=torch.float64)
        order = torch.randperm(3, generator=generator)
        assert torch.equal(batch.noise, noise)
        assert torch.equal(batch.timesteps, torch.tensor([166, 500, 833])[order])


def contents(pieces: list[Batch]) -> dict[str, torch.Tensor]:
    """What is in all samples of a batch, whatever its pieces."""
    whole = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in ("latents", "noise", "timesteps")}
    return whole | {"captions": torch.cat([piece.captions[piece.texts] for piece in pieces])}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_draw_their_rows_of_the_same_batch(encoded, processes):
    photos = encoded(CAPTIONS)
    photos.features = np.random.default_rng(1).normal(size=(3, 2, 4, 1, 1)).astype(np.float16)

    def at_8(parts: int, process: int, processes: int) -> list[Batch]:
        rows = own_rows(8, parts, process, processes)
        return Batches(photos, ImageStream("abc", 0), 8, 0.3, rows, Execution()).at(8)

    (whole,) = at_8(1, 0, 1)
    assert len(torch.unique(whole.noise.flatten(1), dim=0)) == 8
    for process in range(processes):
        own, rows = at_8(2, process, processes), own_rows(8, 2, process, processes).reshape(-1)
        assert_same(contents(own), {name: tensor[rows] for name, tensor in contents([whole]).items()})
        assert torch.equal(torch.cat([piece.features for piece in own]), whole.features[rows])


def test_noise_belongs_to_an_image_of_the_stream(encoded):
    """Whatever the size of the batches, the images at 4 to 7 have the same noise; no two images or seeds share any."""
    photos = encoded(CAPTIONS)

    def noise(size: int, images_seen: int, seed: int = 0) -> torch.Tensor:
        batches = Batches(photos, ImageStream("abc", seed), size, 0.1, own_rows(size, 1, 0, 1), Execution())
        return batches.at(images_seen)[0].noise

    assert torch.equal(noise(8, 0)[4:], noise(4, 4))
    assert not torch.isclose(noise(4, 4), noise(4, 4, seed=1)).all(dim=(1, 2, 3)).any()
    everything = noise(512, 0)
    assert abs(everything.mean()) < 0.01 and abs(everything.std() - 1) < 0.01
    correlation = torch.corrcoef(everything.flatten(1))
    assert correlation.fill_diagonal_(0).abs().max() < 0.4  # 256 numbers each: 6 standard deviations


BY_A_THREAD = Execution(prepares_ahead=True)


@pytest.mark.parametrize("execution", [Execution(), BY_A_THREAD])
def test_batches_are_the_same_wherever_they_are_prepared(encoded, execution):
    """In turn or by a thread; from any step of the run on, and in any number of pieces."""
    photos = encoded(CAPTIONS)
    in_pieces, whole = (
        Batches(photos, ImageStream("abc", 0), 4, 0.1, own_rows(4, parts, 0, 1), execution) for parts in (2, 1)
    )
    for start in (0, 8):
        steps = range(start, 24, 4)
        for images_seen, (found, pieces) in zip(steps, prepared_along(steps, in_pieces.at, 4, execution), strict=True):
            assert found == images_seen and len(pieces) == 2
            assert_same(contents(pieces), contents(whole.at(images_seen)))


def test_each_distinct_caption_stands_once_in_a_piece(encoded):
    chosen, noise = np.array([0, 2, 0, 2, 2, 2]), torch.zeros(6, 2, 4, 8, 8)
    batch = encoded(CAPTIONS).batch(chosen, torch.Generator().manual_seed(0), 0.0, noise)
    assert [len(piece.captions) for piece in batch.pieces(4)] == [2, 1]


def test_the_next_batch_is_prepared_during_the_step(encoded):
    photos, wanted = encoded(CAPTIONS), threading.Event()

    class Watched(ImageStream):
        def indices(self, images_seen: int, count: int) -> np.ndarray:
            if images_seen == 2:
                wanted.set()
            return super().indices(images_seen, count)

    batches = Batches(photos, Watched("abc", 0), 2, 0.1, own_rows(2, 1, 0, 1), BY_A_THREAD)
    for images_seen, _ in prepared_along(iter([0]), batches.at, 2, BY_A_THREAD):
        assert images_seen == 0 and wanted.wait(timeout=10)


def test_an_error_of_the_thread_is_raised_in_the_loop(encoded):
    photos = encoded(CAPTIONS)
    photos.moments = photos.moments[:1]
    batches = Batches(photos, ImageStream("abc", 0), 3, 0.1, own_rows(3, 1, 0, 1), BY_A_THREAD)
    with pytest.raises(IndexError):
        list(prepared_along(range(0, 6, 3), batches.at, 3, BY_A_THREAD))
