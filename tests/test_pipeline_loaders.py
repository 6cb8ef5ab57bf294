"""What the pipeline takes from Stable Diffusion: LoRA, textual inversion, IP-Adapters, single files, `from_pipe`.

Most of it is a table of parities: an adapter of weight 0 is no adapter, a fused one the same as a loaded one, and
Stable Diffusion with the same adapter gives the same pixels.
"""

import ast
import inspect
import textwrap

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    SASolverScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from animal_ldm import AnimalLDMPipeline
from tests.conftest import TINY_CLASSES, tiny_components, tiny_unet
from tests.test_pipeline_animal_ldm import batches_seen, generate, tiny_pipeline


@pytest.fixture
def pipe():
    return tiny_pipeline()


@pytest.fixture
def both(pipe, tiny_pipeline_folder):
    """Our pipeline and Stable Diffusion's over equal weights."""
    theirs = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder)
    theirs.set_progress_bar_config(disable=True)
    return pipe, theirs


def same(pictures, expected, tolerance=1e-5):
    torch.testing.assert_close(pictures, expected, atol=tolerance, rtol=0)


# LoRA


def lora_config(*layers: str):
    return pytest.importorskip("peft").LoraConfig(
        r=4, lora_alpha=4, target_modules=list(layers), init_lora_weights=False
    )


@pytest.fixture
def lora_folder(tmp_path):
    """A LoRA of the UNet with random weights."""
    peft = pytest.importorskip("peft")
    unet = tiny_components()["unet"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet.add_adapter(lora_config("to_q", "to_k", "to_v", "to_out.0", "conv1"))
    layers = peft.get_peft_model_state_dict(unet)
    AnimalLDMPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)
    return tmp_path / "lora"


def test_lora_changes_pixels_as_in_stable_diffusion(both, lora_folder):
    plain = generate(both[0])
    for pipe in both:
        pipe.load_lora_weights(lora_folder)
    for scale in (0.0, 0.5, 1.0):
        ours, theirs = (generate(pipe, cross_attention_kwargs={"scale": scale}) for pipe in both)
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, plain, atol=1e-5) == (scale == 0)
    assert torch.equal(generate(both[0]), ours), "the scale of a call must not outlive it"


def test_lora_unloads(pipe, lora_folder):
    plain = generate(pipe)
    pipe.load_lora_weights(lora_folder, adapter_name="mine")
    assert pipe.get_active_adapters() == ["mine"]
    pipe.unload_lora_weights()
    assert torch.equal(generate(pipe), plain)


def test_fused_lora_is_the_loaded_one(pipe, lora_folder):
    plain = generate(pipe)
    pipe.load_lora_weights(lora_folder)
    loaded, half = generate(pipe), generate(pipe, cross_attention_kwargs={"scale": 0.5})
    pipe.fuse_lora()
    same(generate(pipe), loaded, 1e-4)
    pipe.unfuse_lora()
    same(generate(pipe), loaded, 1e-4)
    pipe.fuse_lora(lora_scale=0.5)
    pipe.unload_lora_weights()
    same(generate(pipe), half, 1e-4)
    assert not torch.allclose(half, plain, atol=1e-4)


def test_weights_of_two_loras(pipe, lora_folder):
    plain = generate(pipe)
    for name in ("one", "two"):
        pipe.load_lora_weights(lora_folder, adapter_name=name)
    pipe.set_adapters(["one", "two"], [1.0, 0.0])
    both = generate(pipe)
    pipe.set_adapters("one")
    same(both, generate(pipe))
    pipe.disable_lora()
    same(generate(pipe), plain)


def test_scale_reaches_the_lora_of_the_text_encoder(pipe):
    """Injected by peft itself, because transformers accepts only the newest peft for `add_adapter`."""
    peft = pytest.importorskip("peft")
    plain = generate(pipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        peft.inject_adapter_in_model(lora_config("q_proj", "k_proj", "v_proj", "out_proj"), pipe.text_encoder)
    full = generate(pipe)
    assert not torch.allclose(full, plain, atol=1e-4)
    same(generate(pipe, cross_attention_kwargs={"scale": 0.0}), plain)
    same(generate(pipe, cross_attention_kwargs={"scale": 1.0}), full)
    half = generate(pipe, cross_attention_kwargs={"scale": 0.5})
    assert not torch.allclose(half, full, atol=1e-4) and not torch.allclose(half, plain, atol=1e-4)
    assert torch.equal(generate(pipe), full), "the scale of a call must not outlive it"


# Textual inversion


@pytest.mark.parametrize("vectors", [1, 3])
def test_textual_inversion(both, vectors, library_warnings):
    learned = torch.randn(vectors, 8, generator=torch.Generator().manual_seed(0))
    plain = generate(both[0], prompt="a zebra")
    for pipe in both:
        pipe.load_textual_inversion({"<okapi>": learned if vectors > 1 else learned[0]})
    ours, theirs = (generate(pipe, prompt="a <okapi>", negative_prompt="<okapi>") for pipe in both)
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, generate(both[0], prompt="a <okap>"), atol=1e-4)
    assert torch.equal(generate(both[0], prompt="a zebra"), plain)
    (warning,) = (message for message in library_warnings() if "names none of the classes" in message)
    assert "'a <okap>'" in warning, "a learned word is a known one"


# IP-Adapters


def ip_adapter(unet, image_size=8) -> dict:
    """Random weights in the format of published IP-Adapters, for image embeddings of `image_size`."""
    generator = torch.Generator().manual_seed(0)
    width, layers = unet.config.cross_attention_dim, {}
    for number, name in enumerate(name for name in unet.attn_processors if name.endswith("attn2.processor")):
        features = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{part}.weight"] = torch.randn(features, width, generator=generator)
    projection = {
        "proj.weight": torch.randn(4 * width, image_size, generator=generator),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def load_ip_adapter(pipe):
    pipe.load_ip_adapter(ip_adapter(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)


IMAGE_EMBEDS = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))


def test_ip_adapter(both):
    plain = generate(both[0])
    for pipe in both:
        load_ip_adapter(pipe)
    for scale in (0.0, 1.0):
        for pipe in both:
            pipe.set_ip_adapter_scale(scale)
        ours, theirs = (generate(pipe, ip_adapter_image_embeds=[IMAGE_EMBEDS]) for pipe in both)
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, plain, atol=1e-5) == (scale == 0)
    both[0].unload_ip_adapter()
    same(generate(both[0]), plain)


def test_ip_adapter_within_a_guidance_interval(pipe):
    """The steps outside use the conditional half of the image's embeddings."""
    load_ip_adapter(pipe)
    unguided = generate(pipe, guidance_scale=1.0, ip_adapter_image_embeds=[IMAGE_EMBEDS[1:]])
    empty = generate(pipe, guidance_interval=(0.5, 0.5), ip_adapter_image_embeds=[IMAGE_EMBEDS])
    assert torch.equal(empty, unguided)


def test_ip_adapter_with_perturbed_attention(both, tiny_pipeline_folder):
    pipes = [both[0], StableDiffusionPAGPipeline.from_pretrained(tiny_pipeline_folder)]
    for pipe in pipes:
        load_ip_adapter(pipe)
    ours, theirs = (generate(pipe, pag_scale=2.0, ip_adapter_image_embeds=[IMAGE_EMBEDS]) for pipe in pipes)
    assert torch.equal(ours, theirs)


def test_ip_adapter_encodes_an_image(both):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=8,
                projection_dim=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            )
        ).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
    image = Image.linear_gradient("L").convert("RGB")
    for pipe in both:
        pipe.register_modules(image_encoder=encoder, feature_extractor=processor)
        load_ip_adapter(pipe)
    ours, theirs = (
        generate(pipe, prompt=["a zebra", "a lion"], ip_adapter_image=image, num_images_per_prompt=2) for pipe in both
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ip_adapter_image_embeds": [IMAGE_EMBEDS], "ip_adapter_image": Image.new("RGB", (8, 8))}, "found both"),
        ({"ip_adapter_image_embeds": IMAGE_EMBEDS}, "must be a list"),
        ({"ip_adapter_image_embeds": [IMAGE_EMBEDS]}, "no IP-Adapter is loaded"),
        ({}, "An IP-Adapter is loaded"),
    ],
    ids=["both", "tensor", "none loaded", "no image"],
)
def test_errors_of_ip_adapters(pipe, inputs, message):
    if not inputs:
        load_ip_adapter(pipe)
    with pytest.raises(ValueError, match=message):
        generate(pipe, **inputs)


# Single files


def test_single_file(tiny_pipeline_folder, tmp_path):
    other = tiny_components(seed=1)
    save_file(other["unet"].state_dict(), tmp_path / "unet.safetensors")
    rest = {"vae": other["vae"], "text_encoder": tiny_components()["text_encoder"]}
    file = str(tmp_path / "unet.safetensors")
    loaded = AnimalLDMPipeline.from_single_file(file, config=tiny_pipeline_folder, **rest)
    assert loaded.classes == TINY_CLASSES
    same(generate(loaded), generate(tiny_pipeline(unet=other["unet"], vae=other["vae"])))


# Other pipeline classes


OTHERS = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline)


@pytest.mark.parametrize("other", OTHERS)
def test_from_pipe_and_back(pipe, other, library_warnings):
    there = other.from_pipe(pipe)
    assert all(component is getattr(pipe, name) for name, component in there.components.items())
    back = AnimalLDMPipeline.from_pipe(there)
    assert type(back) is AnimalLDMPipeline and back.classes == TINY_CLASSES
    assert torch.equal(generate(back), generate(pipe))
    assert not any("safety" in message for message in library_warnings())


@pytest.mark.parametrize(
    ("auto", "expected"),
    zip(
        (AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting),
        (AnimalLDMPipeline, *OTHERS[1:]),
        strict=True,
    ),
)
def test_auto_pipeline_from_pipe(pipe, auto, expected):
    there = auto.from_pipe(pipe)
    assert type(there) is expected
    assert AnimalLDMPipeline.from_pipe(there).classes == TINY_CLASSES


def test_image_to_image(pipe):
    image = Image.linear_gradient("L").convert("RGB").resize((16, 16))
    there = StableDiffusionImg2ImgPipeline.from_pipe(pipe)
    pictures = there("a zebra", image=image, num_inference_steps=4, strength=0.5, output_type="pt").images
    assert pictures.shape == (1, 3, 16, 16) and pictures.isfinite().all()


@pytest.mark.parametrize("loader", [DiffusionPipeline, AutoPipelineForText2Image])
def test_saved_folder_loads_without_our_class(loader, tiny_pipeline_folder):
    there = loader.from_pretrained(tiny_pipeline_folder)
    assert type(there) is StableDiffusionPipeline
    back = AnimalLDMPipeline.from_pipe(there)
    assert back.classes == TINY_CLASSES
    assert torch.equal(generate(back), generate(there))


def test_from_pipe_without_a_folder_of_classes(tmp_path):
    there = StableDiffusionPipeline(
        **tiny_components(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    assert AnimalLDMPipeline.from_pipe(there).classes == []
    assert AnimalLDMPipeline.from_pipe(there, classes=["okapi"]).classes == ["okapi"]
    there.register_to_config(_name_or_path=str(tmp_path / "gone"))
    assert AnimalLDMPipeline.from_pipe(there).classes == []


def test_safety_checker_of_stable_diffusion_is_kept():
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    checker.concept_embeds_weights.data.fill_(-2)  # below every cosine: all images are unsafe
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
    there = StableDiffusionPipeline(**tiny_components(), safety_checker=checker, feature_extractor=processor)
    ours = AnimalLDMPipeline.from_pipe(there)
    assert ours.safety_checker is checker
    pictures = generate(ours)
    assert torch.equal(pictures, generate(there)) and not pictures.any()


def test_encode_prompt_returns_names(pipe):
    """The library's tester reads from the source which arguments of the call `encode_prompt` computes."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(AnimalLDMPipeline.encode_prompt)))
    (returned,) = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    assert ast.unparse(returned) == "(prompt_embeds, negative_prompt_embeds)"


# clip_skip and distilled UNets


def test_clip_skip(pipe):
    same(generate(pipe, clip_skip=0), generate(pipe))
    skipped = generate(pipe, clip_skip=1)
    assert not torch.allclose(skipped, generate(pipe), atol=1e-4)
    with torch.no_grad():
        prompt, negative = pipe.encode_prompt("a zebra", clip_skip=1)
        ids = pipe.tokenizer("a zebra", padding="max_length", return_tensors="pt").input_ids
        hidden = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        assert torch.equal(prompt, pipe.text_encoder.final_layer_norm(hidden))
        assert torch.equal(negative, pipe.encode_prompt("")[0])
    assert torch.equal(skipped, generate(pipe, prompt_embeds=prompt, negative_prompt_embeds=negative))


@pytest.fixture
def distilled():
    """Both pipelines over a UNet that receives the guidance scale as an input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        components = tiny_components() | {"unet": tiny_unet(time_cond_proj_dim=8)}
    components["scheduler"] = LCMScheduler.from_config(components["scheduler"].config)
    ours = AnimalLDMPipeline(**components)
    return ours, StableDiffusionPipeline.from_pipe(ours)


def test_distilled_unet_gives_the_pixels_of_stable_diffusion(distilled):
    pictures = []
    for scale in (1.0, 3.0, 8.0):
        inputs = {"guidance_scale": scale, "prompt": ["a zebra", "a lion"], "num_images_per_prompt": 2}
        ours, theirs = (generate(pipe, **inputs) for pipe in distilled)
        assert torch.equal(ours, theirs)
        pictures.append(ours)
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-4)


def test_distilled_unet_is_evaluated_once_a_step(distilled):
    with batches_seen(distilled[0].unet) as batches:
        generate(distilled[0], guidance_scale=8.0)
    assert batches == [1, 1]
    with pytest.raises(ValueError, match="time_cond_proj_dim"):
        generate(distilled[0], guidance_interval=(0.0, 0.5))


def test_distilled_unet_with_perturbed_attention(distilled):
    pipe, prompts = distilled[0], ["a zebra", "a lion"]
    with batches_seen(pipe.unet) as batches:
        perturbed = generate(pipe, prompt=prompts, guidance_scale=8.0, pag_scale=2.0)
    assert batches == [4, 4]
    assert not torch.equal(perturbed, generate(pipe, prompt=prompts, guidance_scale=8.0))


# Schedulers made from the config of one that adds noise


@pytest.mark.parametrize(
    ("scheduler", "algorithm"),
    [(DEISMultistepScheduler, "deis"), (SASolverScheduler, "data_prediction"), (UniPCMultistepScheduler, None)],
)
def test_schedulers_from_the_config_of_sde_dpm(pipe, scheduler, algorithm):
    """As the documentation of `scheduler` says."""
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="sde-dpmsolver++")
    if algorithm is not None:
        with pytest.raises(NotImplementedError, match="sde-dpmsolver"):
            scheduler.from_config(pipe.scheduler.config)
        assert f'{scheduler.__name__}.from_config(pipe.scheduler.config, algorithm_type="{algorithm}")' in (
            AnimalLDMPipeline.__doc__ or ""
        )
    options = {} if algorithm is None else {"algorithm_type": algorithm}
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    ours = generate(pipe, num_inference_steps=4)
    assert ours.isfinite().all()
    assert torch.equal(ours, generate(StableDiffusionPipeline.from_pipe(pipe), num_inference_steps=4))
