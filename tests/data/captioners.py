"""Tiny real captioners of every family, with random weights, saved as folders as on the Hub. They need no network."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

CAPTION = "a an the zebra horse cat dog bird in on with at of field grass snow water small big white black two"
PROMPT = "Describe this photo in one short sentence . : user assistant What does image describe ?"

SMALL: Any = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
# 24-pixel images in 9 patches. BLIP's own default for `initializer_range`, for weights that are loaded, is 1e-10.
VISION: Any = SMALL | dict(image_size=24, patch_size=8, initializer_range=0.02)
SIZE = {"height": 24, "width": 24}
SPECIAL: Any = dict(pad_token_id=0, bos_token_id=2, eos_token_id=3)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def bert_tokenizer() -> BertTokenizer:
    """[CLS] is token 2, [SEP] 3, and [DEC], with which BLIP's captions begin, 5."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *CAPTION.split()]
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, bos_token="[DEC]")


def word_tokenizer(*special: str, **options: Any) -> PreTrainedTokenizerFast:
    vocabulary = dict.fromkeys(["<pad>", "<unk>", "<s>", "</s>", *special, *CAPTION.split(), *PROMPT.split()])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        **options or {"additional_special_tokens": list(special)},
    )


def blip(**text: Any) -> tuple:
    tokenizer = bert_tokenizer()
    text = SMALL | dict(vocab_size=len(tokenizer), encoder_hidden_size=16, max_position_embeddings=64) | text
    special = dict(pad_token_id=0, bos_token_id=5, sep_token_id=3, eos_token_id=3)
    config = BlipConfig(text_config=text | special, vision_config=VISION, projection_dim=16)
    return BlipForConditionalGeneration(config), BlipProcessor(BlipImageProcessor(size=SIZE), tokenizer)


def blip2() -> tuple:
    tokenizer = word_tokenizer("<image>")
    text = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=96, **SPECIAL,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=SMALL | dict(encoder_hidden_size=16, vocab_size=len(tokenizer)),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = Blip2Processor(BlipImageProcessor(size=SIZE), tokenizer, num_query_tokens=4)
    return Blip2ForConditionalGeneration(config), processor


def git() -> tuple:
    tokenizer = bert_tokenizer()
    config = GitConfig(vision_config=VISION, vocab_size=len(tokenizer), max_position_embeddings=96, **SMALL, **SPECIAL)
    return GitForCausalLM(config), GitProcessor(CLIPImageProcessor(size=SIZE, do_center_crop=False), tokenizer)


def florence2() -> tuple:
    tokenizer = word_tokenizer(extra_special_tokens={"image_token": "<image>"})
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 65  # 8 x 8 positions and their mean
    vision = dict(
        embed_dim=[8, 8], num_heads=[2, 2], num_groups=[2, 2], depths=[1, 1], patch_size=[7, 3], patch_stride=[4, 2],
        patch_padding=[3, 1], patch_prenorm=[False, True], window_size=4, projection_dim=16,
    )  # fmt: skip
    text = dict(
        model_type="bart", vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
        max_position_embeddings=200, decoder_start_token_id=3, **SPECIAL,
    )  # fmt: skip
    config = Florence2Config(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    model = Florence2ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(decoder_start_token_id=3, no_repeat_ngram_size=3, **SPECIAL)
    return model, Florence2Processor(images, tokenizer, num_additional_image_tokens=1)


def idefics3() -> tuple:
    """The family of SmolVLM, whose own processor needs one more package."""
    tokenizer = word_tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    size = {"longest_edge": 32}
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer,
        image_seq_len=4,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    )
    config = Idefics3Config(
        vision_config=SMALL | dict(image_size=32, patch_size=8),
        text_config=SMALL | SPECIAL | dict(model_type="llama", vocab_size=len(tokenizer), num_key_value_heads=2),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**SPECIAL)
    return model, processor


def qwen2_vl() -> tuple:
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = word_tokenizer(*names)
    image, video, start, end = tokenizer.convert_tokens_to_ids(names)
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112),
        tokenizer,
        Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = Qwen2VLConfig(
        text_config=SMALL | SPECIAL | dict(vocab_size=len(tokenizer), num_key_value_heads=2, rope_parameters=rope),
        vision_config=dict(depth=1, embed_dim=16, hidden_size=16, num_heads=2, mlp_ratio=2),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    model = Qwen2VLForConditionalGeneration(config)
    # As on the Hub: by default it samples, all but greedily.
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.01, top_k=1, top_p=0.001, **SPECIAL)
    return model, processor


def vit_gpt2() -> tuple:
    tokenizer = bert_tokenizer()
    decoder = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3, pad_token_id=0
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(decoder_start_token_id=2, **SPECIAL)
    return model, ViTImageProcessor(size=SIZE), tokenizer


FAMILIES = {
    "blip": blip,
    "blip2": blip2,
    "florence2": florence2,
    "git": git,
    "idefics3": idefics3,
    "qwen2_vl": qwen2_vl,
    "vit_gpt2": vit_gpt2,
}


def save(family: str, folder: Path, seed: int = 1) -> Path:
    """Write a captioner with random weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, *others = FAMILIES[family]()
    # Larger weights: with those of a new model, every image would get the same caption.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)
    for part in (model, *others):
        part.save_pretrained(folder)
    return folder
