import numpy as np
import pytest
import torch
from accelerate import Accelerator

from animal_ldm.training.cache import Cache
from animal_ldm.training.text import Captions, build_text_encoder, build_tokenizer, known_words, load_text_encoder
from tests.conftest import tiny_tokenizer

CAPTIONS = ["a zebra", "a photo of a zebra", "zebra", "two lions"] * 3


def test_words_of_the_captions_are_single_tokens_and_any_other_text_encodes():
    tokenizer = build_tokenizer(CAPTIONS)
    assert tokenizer.tokenize("a photo of two lions") == ["a</w>", "photo</w>", "of</w>", "two</w>", "lions</w>"]
    unknown = tokenizer.tokenize("Größe 9 水")
    assert len(unknown) > 3 and tokenizer.unk_token not in unknown


def test_tokenizer_depends_on_the_captions_alone_and_survives_saving(tmp_path):
    first, second = build_tokenizer(CAPTIONS), build_tokenizer(list(reversed(CAPTIONS)))
    assert first.get_vocab() == second.get_vocab()
    first.save_pretrained(tmp_path)
    loaded = type(first).from_pretrained(tmp_path)
    assert loaded("a purple zebra").input_ids == first("a purple zebra").input_ids
    assert loaded.model_max_length == 32


def test_known_words_are_the_most_frequent_and_bounded():
    assert known_words(["A zebra, close-up", "two zebras", "a Lion"]) == "a close lion two up zebra zebras"
    many = [f"word{i}" for i in range(3000)] + ["rare"] * 2
    words = known_words(many).split()
    assert len(words) == 2000 and words[0] == "rare"


def test_frozen_captions_are_the_encoders_own_embeddings(tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(CAPTIONS)
    encoder = build_text_encoder(tokenizer).eval()
    captions = Captions(Cache(Accelerator(), tmp_path), CAPTIONS, tokenizer, encoder, frozen=True)
    assert captions.table.shape == (5, 32, 128)
    for text in ["zebra", ""]:
        ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        (number,) = captions.numbers([text]) if text else [0]
        torch.testing.assert_close(torch.from_numpy(captions.table[number].copy()), encoder(ids)[0][0].detach())


def test_trained_captions_are_token_ids(tmp_path):
    tokenizer = build_tokenizer(CAPTIONS)
    encoder = build_text_encoder(tokenizer)
    captions = Captions(Cache(Accelerator(), tmp_path), CAPTIONS, tokenizer, encoder, frozen=False)
    assert captions.table.shape == (5, 32) and captions.table.dtype == np.int64
    assert list(captions.numbers(["zebra", "zebra", "a zebra"])) == [4, 4, 2]
    with pytest.raises(KeyError):
        captions.numbers(["a unicorn"])


def test_the_tokenizer_of_a_pipeline_folder_is_that_of_its_subfolder(tiny_pipeline_folder):
    tokenizer, _ = load_text_encoder(tiny_pipeline_folder, ())
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
