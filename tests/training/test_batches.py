"""Which caption a photo gets: each of its own equally often, as a function of the generator alone."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from animal_ldm.data.prepared import PreparedSplit
from animal_ldm.training.batches import Batches, DiffusionProcess, EncodedPhotos, prepared_along
from animal_ldm.training.cache import Cache
from animal_ldm.training.execution import Execution
from animal_ldm.training.stream import ImageStream, own_rows, step_generator
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
    batch = photos.batch(np.array(chosen), torch.Generator().manual_seed(seed), dropout)
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


def test_one_caption_each_draws_nothing(encoded):
    """So that datasets of earlier versions give the same batches as before."""
    generator = torch.Generator().manual_seed(0)
    encoded((("a lion",), ("a zebra",), ("",))).batch(np.arange(3), generator, 0.1)
    expected = torch.Generator().manual_seed(0)
    torch.randint(2, (3,), generator=expected)
    torch.randn((3, 4, 8, 8), generator=expected)
    torch.randn((3, 4, 8, 8), generator=expected)
    torch.randint(1000, (3,), generator=expected)
    torch.rand(3, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_draw_their_rows_of_the_same_batch(encoded, processes):
    photos, chosen = encoded(CAPTIONS), np.array([0, 1, 2, 1, 0, 1, 2, 1])
    photos.features = np.random.default_rng(1).normal(size=(3, 2, 4, 1, 1)).astype(np.float16)
    whole = photos.batch(chosen, step_generator(0, 8), 0.3)
    for process in range(processes):
        rows = own_rows(8, 2, process, processes).reshape(-1)
        own = photos.batch(chosen, step_generator(0, 8), 0.3, rows)
        for name in ("latents", "noise", "timesteps", "captions", "features"):
            assert torch.equal(getattr(own, name), getattr(whole, name)[rows]), name


BY_A_THREAD = Execution(prepares_ahead=True)


@pytest.mark.parametrize("execution", [Execution(), BY_A_THREAD])
def test_batches_are_the_same_wherever_they_are_prepared(encoded, execution):
    """In turn or by a thread; from any step of the run on, and in any number of pieces."""
    photos = encoded(CAPTIONS)
    batches = Batches(photos, ImageStream("abc", 0), 4, 0.1, own_rows(4, 2, 0, 1), execution)
    for start in (0, 8):
        steps = range(start, 24, 4)
        for images_seen, (found, pieces) in zip(steps, prepared_along(steps, batches.at, 4, execution), strict=True):
            chosen = ImageStream("abc", 0).indices(images_seen, 4)
            expected = photos.batch(chosen, step_generator(0, images_seen), 0.1)
            assert found == images_seen and len(pieces) == 2
            for name in ("latents", "noise", "timesteps"):
                whole = torch.cat([getattr(piece, name) for piece in pieces])
                assert torch.equal(whole, getattr(expected, name))
            captions = [piece.captions[piece.texts] for piece in pieces]
            assert torch.equal(torch.cat(captions), expected.captions)


def test_each_distinct_caption_stands_once_in_a_piece(encoded):
    batch = encoded(CAPTIONS).batch(np.array([0, 2, 0, 2, 2, 2]), torch.Generator().manual_seed(0), 0.0)
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
