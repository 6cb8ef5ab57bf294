"""Captions for the UNet: embeddings of a frozen text encoder, or token ids for a small one trained jointly."""

# transformers annotates these more narrowly than it accepts them.
# pyright: reportArgumentType=false

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..data.captions import asked_words
from ..data.prepared import PreparedSplit
from ..digest import weights_digest
from ..errors import InputError
from ..loading import load_component
from ..pipeline_animal_ldm import words_of
from .cache import Cache, fingerprint

START, END = "<|startoftext|>", "<|endoftext|>"

# Size of the small encoder: enough for captions with a vocabulary of a few dozen words.
WIDTH, LAYERS, TOKENS, VOCABULARY = 128, 2, 32, 4096

KNOWN_WORDS = 2000  # at most, in the pipeline's config
EXAMPLES = 4  # captions that show what the model was trained on


def build_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges learned from `captions`; any other text is encoded byte by byte."""
    letters = sorted(ByteLevel.alphabet())
    alphabet = [*letters, *(letter + "</w>" for letter in letters)]
    # CLIP's own normalisation and word splitting, so that the merges fit the words it will see
    backend = CLIPTokenizer(vocab=_vocabulary(alphabet), merges=[]).backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=VOCABULARY - len(letters),
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        special_tokens=[START, END],
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    vocabulary = _vocabulary([*alphabet, *("".join(pair) for pair in merges)])
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}


def known_words(captions: Iterable[str]) -> str:
    """The most frequent words of the captions, for `AnimalLDMPipeline.vocabulary`; ties in alphabetical order."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return " ".join(sorted(counts, key=lambda word: (-counts[word], word))[:KNOWN_WORDS])


def caption_record(train_split: PreparedSplit, validation_split: PreparedSplit, seed: int) -> dict[str, Any]:
    """What the training report says of the captions.

    `sources` counts the training captions by source, as `PreparedSplit.source_counts`. `words` lists the measured
    words they state by kind, the most frequent first. `examples` are a few validation captions, none of them a
    template.
    """
    labelled = zip(train_split.captions, train_split.labels, strict=True)
    counts = Counter(
        word for texts, label in labelled for text in texts for word in asked_words(text, label).words().items()
    )
    words: dict[str, list[str]] = {}
    for kind, word in sorted(counts, key=lambda found: (-counts[found], found)):
        words.setdefault(kind, []).append(word)
    return {
        "sources": train_split.source_counts,
        "words": words,
        "examples": validation_split.example_captions(EXAMPLES, seed),
    }


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small `CLIPTextModel` with random weights: token ids `(B, 32)` to embeddings `(B, 32, 128)`."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 32,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def load_text_encoder(name: str, captions: Sequence[str]) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and text encoder from a folder or the Hub, or for "scratch" new ones for `captions`."""
    if name == "scratch":
        tokenizer = build_tokenizer(captions)
        return tokenizer, build_text_encoder(tokenizer)
    tokenizer = load_component(CLIPTokenizer, name, "tokenizer")
    return tokenizer, load_component(CLIPTextModel, name, "text_encoder")


def take_over(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, old_tokenizer: CLIPTokenizer, old_encoder: CLIPTextModel
) -> int:
    """Give a new text encoder the weights of an older one, token by token. Returns how many tokens it lacks.

    Raises:
        InputError: the encoders differ in more than their vocabulary.
    """
    name = "embeddings.token_embedding.weight"
    state, old = text_encoder.state_dict(), old_encoder.state_dict()
    (key,) = [key for key in state if key.endswith(name)]
    rest = {other: weights for other, weights in old.items() if other != key}
    expected = {other: tuple(weights.shape) for other, weights in state.items() if other != key}
    if {other: tuple(weights.shape) for other, weights in rest.items()} != expected:
        raise InputError(
            "The text encoder to start from has another architecture than the small one that --text_encoder scratch"
            " makes. Pass --text_encoder with its folder to use it frozen."
        )
    known = old_tokenizer.get_vocab()
    embeddings = state[key].clone()
    missing = 0
    for token, number in tokenizer.get_vocab().items():
        if token in known:
            embeddings[number] = old[key][known[token]]
        else:
            missing += 1
    text_encoder.load_state_dict({**rest, key: embeddings})
    return missing


class Captions:
    """The captions of a dataset, each distinct one tokenised (and, for a frozen encoder, encoded) once.

    `table[i]` is the denoiser's input for caption `i`: the embedding `(L, D)` for a frozen encoder, token ids `(L,)`
    for one that is trained jointly. `table[0]` is the empty caption, for classifier-free guidance (arXiv 2207.12598).
    """

    def __init__(
        self,
        cache: Cache,
        texts: Sequence[str],
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        frozen: bool,
    ):
        self.tokenizer = tokenizer
        distinct = ["", *sorted(set(texts) - {""})]
        self.index = {text: i for i, text in enumerate(distinct)}
        ids = tokenizer(
            distinct, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="np"
        ).input_ids
        self.table = self._encode(cache, ids, text_encoder) if frozen else ids

    @staticmethod
    @torch.no_grad()
    def _encode(cache: Cache, ids: np.ndarray, encoder: CLIPTextModel) -> np.ndarray:
        def embed(start: int, stop: int) -> np.ndarray:
            return encoder(torch.as_tensor(ids[start:stop], device=encoder.device))[0].float().cpu().numpy()

        key = fingerprint("captions", weights_digest(encoder), ids.tolist())
        shape = (*ids.shape, encoder.config.hidden_size)
        return cache.array(key, shape, np.float32, embed, "encoding captions")

    def numbers(self, texts: Sequence[str]) -> np.ndarray:
        """Index into `table` of each text, int64. Raises KeyError for a text that was not passed to `__init__`."""
        return np.array([self.index[text] for text in texts])
