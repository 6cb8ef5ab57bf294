"""What the library asks of its pipelines, under the names of its `PipelineTesterMixin`, and our own promises."""

import ast
import contextlib
import inspect
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.schedulers import KarrasDiffusionSchedulers

from animal_ldm import AnimalLDMPipeline, AnimalLDMPipelineOutput
from animal_ldm.data.captions import plural
from animal_ldm.pipeline_animal_ldm import SAMPLING_DEFAULTS, names_class
from tests.conftest import TINY_CLASSES, tiny_components

needs_accelerator = pytest.mark.skipif(
    not torch.accelerator.is_available(), reason="offloading moves weights to an accelerator, and there is none"
)


def tiny_pipeline(**components) -> AnimalLDMPipeline:
    pipe = AnimalLDMPipeline(**tiny_components() | components, classes=TINY_CLASSES)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def generate(pipe, **changes):
    """Pictures of one prompt from seed 0, in two guided steps, unless `changes` say otherwise."""
    inputs = {"prompt": "a zebra", "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    if "generator" not in changes:
        (inputs["generator"],) = seeded(0)
    if "prompt_embeds" in changes:
        del inputs["prompt"]
    return pipe(**inputs | changes).images


@pytest.fixture
def pipe():
    return tiny_pipeline()


# The core checks of the library's pipeline tester


def test_save_load_local(pipe, tmp_path):
    expected = generate(pipe)
    pipe.save_pretrained(tmp_path)
    loaded = AnimalLDMPipeline.from_pretrained(tmp_path)
    assert torch.equal(generate(loaded), expected)
    assert loaded.classes == TINY_CLASSES
    assert loaded.scheduler.config.prediction_type == pipe.scheduler.config.prediction_type


def test_save_twice_gives_the_same_files(tiny_pipeline_folder, tmp_path):
    AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder).save_pretrained(tmp_path)
    weights = [path.relative_to(tiny_pipeline_folder) for path in Path(tiny_pipeline_folder).rglob("*.safetensors")]
    assert len(weights) == 3
    for path in weights:
        assert (tmp_path / path).read_bytes() == (tiny_pipeline_folder / path).read_bytes()
    first, second = (
        json.loads(Path(folder, "model_index.json").read_text()) for folder in (tiny_pipeline_folder, tmp_path)
    )
    assert second.pop("_name_or_path") == tiny_pipeline_folder
    assert second == first


def test_output(pipe):
    pictures = generate(pipe)
    assert pictures.shape == (1, 3, 16, 16)
    assert pictures.isfinite().all()
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_pipeline_call_signature():
    parameters = inspect.signature(AnimalLDMPipeline.__call__).parameters
    expected = [
        "prompt",
        "height",
        "width",
        "num_inference_steps",
        "timesteps",
        "sigmas",
        "guidance_scale",
        "guidance_rescale",
        "guidance_interval",
        "pag_scale",
        "pag_applied_layers",
        "negative_prompt",
        "num_images_per_prompt",
        "eta",
        "generator",
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "ip_adapter_image",
        "ip_adapter_image_embeds",
        "output_type",
        "return_dict",
        "cross_attention_kwargs",
        "clip_skip",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    ]
    assert [name for name in parameters if name != "self"] == expected
    assert all(parameters[name].default is not inspect.Parameter.empty for name in expected)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_inference_batch_consistent(pipe, batch_size):
    prompts = ["a zebra", "lion", "", "a wolf in the snow"][:batch_size]
    assert generate(pipe, prompt=prompts, generator=seeded(*range(batch_size))).shape == (batch_size, 3, 16, 16)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_inference_batch_single_identical(pipe, eta):
    prompts = ["a zebra", "lion", "", "two wolves in the snow"]
    batch = generate(pipe, prompt=prompts, negative_prompt="a lion", generator=seeded(*range(4)), eta=eta)
    for seed, prompt in enumerate(prompts):
        alone = generate(pipe, prompt=prompt, negative_prompt="a lion", generator=seeded(seed), eta=eta)
        torch.testing.assert_close(batch[seed], alone[0], atol=1e-4, rtol=0)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


def test_dict_tuple_outputs_equivalent(pipe):
    assert isinstance(pipe("a zebra", num_inference_steps=1), AnimalLDMPipelineOutput)
    inputs = {"num_inference_steps": 2, "output_type": "pt"}
    as_dict = pipe("a zebra", generator=seeded(0), **inputs)
    as_tuple = pipe("a zebra", generator=seeded(0), return_dict=False, **inputs)
    assert len(as_tuple) == len(as_dict) == 1
    assert torch.equal(as_dict.images, as_tuple[0])


def test_components_function(pipe):
    assert set(pipe.components) == {*tiny_components(), *AnimalLDMPipeline._optional_components}
    assert torch.equal(generate(AnimalLDMPipeline(**pipe.components)), generate(pipe))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inference_no_nan(pipe, dtype):
    expected = generate(pipe)
    pictures = generate(pipe.to(dtype=dtype))
    assert pictures.dtype == dtype
    torch.testing.assert_close(pictures.float(), expected, atol=0.05, rtol=0)
    assert np.isfinite(generate(pipe, output_type="np")).all()


def test_save_load_float16(pipe, tmp_path):
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path)
    loaded = AnimalLDMPipeline.from_pretrained(tmp_path, dtype=torch.float16)
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.float16}
    assert torch.equal(generate(loaded), generate(pipe))


def test_save_load_optional_components(tmp_path):
    """Those that Stable Diffusion has besides, and the list of classes."""
    assert set(AnimalLDMPipeline._optional_components) == {"safety_checker", "feature_extractor", "image_encoder"}
    AnimalLDMPipeline(**tiny_components()).save_pretrained(tmp_path)
    loaded = AnimalLDMPipeline.from_pretrained(tmp_path)
    assert loaded.classes == []
    assert {getattr(loaded, name) for name in AnimalLDMPipeline._optional_components} == {None}


@needs_accelerator
def test_to_device(pipe):
    expected = generate(pipe)
    pipe.to(torch.accelerator.current_accelerator())
    assert {pipe.device.type} == {torch.accelerator.current_accelerator().type}
    torch.testing.assert_close(generate(pipe).cpu(), expected, atol=1e-2, rtol=0)


def test_to_dtype(pipe):
    assert pipe.dtype == torch.float32
    pipe.to(dtype=torch.bfloat16)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


@pytest.mark.parametrize("prompts", [["a zebra"], ["a zebra", "a lion"]])
def test_num_images_per_prompt(pipe, prompts):
    pictures = generate(pipe, prompt=prompts, num_images_per_prompt=2, generator=seeded(*range(2 * len(prompts))))
    for i, picture in enumerate(pictures):
        alone = generate(pipe, prompt=prompts[i // 2], generator=seeded(i))
        torch.testing.assert_close(picture, alone[0], atol=1e-4, rtol=0)


def test_cfg(pipe):
    unguided, weak, strong = (generate(pipe, guidance_scale=scale) for scale in (1.0, 3.0, 9.0))
    assert torch.equal(generate(pipe, guidance_scale=0.0), unguided)  # as in Stable Diffusion, guidance begins above 1
    assert (strong - unguided).abs().mean() > (weak - unguided).abs().mean() > 0


def test_callback_inputs(pipe):
    shapes = []

    def record(pipe, step, timestep, tensors):
        shapes.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return tensors

    expected = generate(pipe)
    names = pipe._callback_tensor_inputs
    watched = generate(pipe, callback_on_step_end=record, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(watched, expected)
    tokens = pipe.tokenizer.model_max_length
    assert (
        shapes
        == [{"latents": (1, 4, 8, 8), "prompt_embeds": (2, tokens, 8), "negative_prompt_embeds": (1, tokens, 8)}] * 2
    )

    def blacken(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert not generate(pipe, callback_on_step_end=blacken, output_type="latent").any()


def test_cross_attention_kwargs_reach_the_attention(pipe):
    class Listener(AttnProcessor2_0):
        def __call__(self, *args, word=None, **kwargs):
            heard.append(word)
            return super().__call__(*args, **kwargs)

    heard = []
    pipe.unet.set_attn_processor(Listener())
    generate(pipe, cross_attention_kwargs={"word": "hello"})
    assert set(heard) == {"hello"}


def test_callback_cfg(pipe):
    def strengthen(pipe, step, timestep, tensors):
        pipe._guidance_scale += 1
        return tensors

    generate(pipe, callback_on_step_end=strengthen, num_inference_steps=3)
    assert pipe.guidance_scale == 3 + pipe.num_timesteps == 6


def test_callback_interrupts(pipe):
    def stop(pipe, step, timestep, tensors):
        seen.append(tensors["latents"])
        pipe._interrupt = True
        return tensors

    seen = []
    assert torch.equal(generate(pipe, callback_on_step_end=stop, num_inference_steps=5, output_type="latent"), seen[0])
    assert len(seen) == 1


def test_serialization_with_variants(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    weights = list(tmp_path.rglob("*.safetensors"))
    assert len(weights) == 3
    assert all(".fp16." in path.name for path in weights)


def test_loading_with_variants(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert torch.equal(generate(AnimalLDMPipeline.from_pretrained(tmp_path, variant="fp16")), generate(pipe))


def test_loading_with_incorrect_variants_raises_error(tiny_pipeline_folder):
    with pytest.raises(ValueError, match="variant=fp16"):
        AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder, variant="fp16")


def test_encode_prompt_works_in_isolation(pipe):
    components = dict(pipe.components)
    nothing = dict.fromkeys(components)
    text = {name: components[name] for name in ("text_encoder", "tokenizer")}
    with torch.no_grad():
        embeds = AnimalLDMPipeline(**nothing | text).encode_prompt("a zebra", negative_prompt="a lion")
    pictures = generate(
        AnimalLDMPipeline(**components | dict.fromkeys(text)),
        prompt_embeds=embeds[0],
        negative_prompt_embeds=embeds[1],
    )
    assert torch.equal(pictures, generate(pipe, negative_prompt="a lion"))


def test_torch_dtype_dict(tiny_pipeline_folder):
    dtypes = {"unet": torch.bfloat16, "default": torch.float16}
    pipe = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder, dtype=dtypes)
    assert (pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype) == (
        torch.bfloat16,
        torch.float16,
        torch.float16,
    )


# Its memory checks


@needs_accelerator
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_cpu_offload(pipe, offload, times):
    expected = generate(pipe)
    for _ in range(times):
        getattr(pipe, offload)()
        torch.testing.assert_close(generate(pipe).cpu(), expected, atol=1e-2, rtol=0)


@needs_accelerator
def test_pipeline_level_group_offloading_inference(pipe):
    expected = generate(pipe)
    pipe.enable_group_offload(torch.accelerator.current_accelerator(), offload_type="leaf_level")
    torch.testing.assert_close(generate(pipe).cpu(), expected, atol=1e-2, rtol=0)


def test_layerwise_casting_inference(pipe):
    expected = generate(pipe)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert torch.float8_e4m3fn in {parameter.dtype for parameter in pipe.unet.parameters()}
    torch.testing.assert_close(generate(pipe), expected, atol=0.1, rtol=0)


# Its mixins for Stable Diffusion's components, latents, schedulers and `from_pipe`


def test_attention_slicing_forward_pass(pipe):
    expected = generate(pipe)
    pipe.enable_attention_slicing(slice_size=1)
    torch.testing.assert_close(generate(pipe), expected, atol=1e-5, rtol=0)


def test_xformers_attention_forward_pass(pipe):
    pytest.importorskip("xformers", reason="xformers is an optional extra")
    if not torch.cuda.is_available():
        pytest.skip("xformers' kernels run on CUDA alone")
    pipe.to("cuda")
    expected = generate(pipe)
    pipe.enable_xformers_memory_efficient_attention()
    torch.testing.assert_close(generate(pipe), expected, atol=1e-2, rtol=0)


def test_vae_slicing(pipe):
    expected = generate(pipe, prompt=["a zebra"] * 3, generator=seeded(0, 1, 2))
    pipe.vae.enable_slicing()
    sliced = generate(pipe, prompt=["a zebra"] * 3, generator=seeded(0, 1, 2))
    torch.testing.assert_close(sliced, expected, atol=1e-4, rtol=0)


def test_vae_tiling(pipe):
    """Tiles see less of their surroundings, so the pictures are near, not equal."""
    expected = generate(pipe, height=32, width=32)
    pipe.vae.enable_tiling()
    tiled = generate(pipe, height=32, width=32)
    assert 0 < (tiled - expected).abs().mean() < 0.1


def test_freeu(pipe):
    expected = generate(pipe)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert not torch.allclose(generate(pipe), expected, atol=1e-4)
    pipe.disable_freeu()
    assert torch.equal(generate(pipe), expected)


def test_fused_qkv_projections(pipe):
    expected = generate(pipe)
    pipe.fuse_qkv_projections()
    assert any(hasattr(module, "to_qkv") for module in pipe.unet.modules())
    torch.testing.assert_close(generate(pipe), expected, atol=1e-4, rtol=0)
    pipe.unfuse_qkv_projections()
    torch.testing.assert_close(generate(pipe), expected, atol=1e-4, rtol=0)


def test_pt_np_pil_outputs_equivalent(pipe):
    as_pt, as_np, as_pil = (generate(pipe, output_type=output_type) for output_type in ("pt", "np", "pil"))
    assert as_np.shape == (1, 16, 16, 3)
    assert np.array_equal(as_np, as_pt.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(as_pil[0]), (as_np[0] * 255).round().astype(np.uint8))


def test_latent_output_decodes_to_the_picture(pipe):
    latents = generate(pipe, output_type="latent")
    assert latents.shape == (1, 4, 8, 8)
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    assert torch.equal((decoded / 2 + 0.5).clamp(0, 1), generate(pipe))


def test_latents_input(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0)[0])
    assert torch.equal(generate(pipe, latents=latents, generator=None), generate(pipe))
    assert torch.equal(latents, torch.randn(1, 4, 8, 8, generator=seeded(0)[0])), "the caller's tensor was changed"


@pytest.mark.parametrize("scheduler", [scheduler.name for scheduler in KarrasDiffusionSchedulers])
def test_karras_schedulers_shape(pipe, scheduler):
    if scheduler == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde", reason="DPMSolverSDEScheduler needs torchsde")
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pictures = generate(pipe, num_inference_steps=4)
    assert pictures.shape == (1, 3, 16, 16)
    assert pictures.isfinite().all()


def test_from_pipe_consistent_config(pipe):
    expected = generate(pipe)
    stable_diffusion = StableDiffusionPipeline.from_pipe(pipe)
    back = AnimalLDMPipeline.from_pipe(stable_diffusion)
    assert back.classes == TINY_CLASSES
    assert torch.equal(generate(back), expected)


def test_from_pipe_forward_pass(pipe):
    assert torch.equal(generate(AnimalLDMPipeline.from_pipe(pipe)), generate(pipe))


# The same pixels as Stable Diffusion


@pytest.fixture(
    scope="module",
    params=[
        (scheduler, options, prediction_type)
        for scheduler, options in (
            (DDIMScheduler, {}),
            (DPMSolverMultistepScheduler, {}),
            (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
            (EulerDiscreteScheduler, {}),
            (EulerAncestralDiscreteScheduler, {}),
        )
        for prediction_type in ("epsilon", "v_prediction")
    ],
    ids=lambda param: "-".join([param[0].__name__, *param[1].values(), param[2]]),
)
def both(request, tmp_path_factory):
    """Our pipeline and a `StableDiffusionPipeline`, loaded from one folder."""
    scheduler, options, prediction_type = request.param
    folder = tmp_path_factory.mktemp("pipeline")
    components = tiny_components(prediction_type)
    components["scheduler"] = scheduler.from_config(components["scheduler"].config, **options)
    AnimalLDMPipeline(**components, classes=TINY_CLASSES).save_pretrained(folder)
    pipes = AnimalLDMPipeline.from_pretrained(folder), StableDiffusionPipeline.from_pretrained(folder)
    for pipe in pipes:
        assert pipe.scheduler.config.prediction_type == prediction_type
        pipe.set_progress_bar_config(disable=True)
    return pipes


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 3.0, "guidance_rescale": 0.7},
        {"negative_prompt": "a lion", "num_images_per_prompt": 3},
        {"prompt": ["a zebra", ""], "negative_prompt": ["", "a lion"], "num_images_per_prompt": 2},
        {"height": 24, "width": 32},
        {"prompt": "a zebra " * 10},
    ],
    ids=str,
)
def test_same_pixels_as_stable_diffusion(both, changes):
    ours, theirs = (generate(pipe, num_inference_steps=4, **changes) for pipe in both)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_same_pixels_as_stable_diffusion_with_noise_in_the_steps(tiny_pipeline_folder, eta):
    pipes = [cls.from_pretrained(tiny_pipeline_folder) for cls in (AnimalLDMPipeline, StableDiffusionPipeline)]
    for generators in (seeded(3)[0], seeded(3, 4)):
        states = []
        pictures = []
        for pipe in pipes:
            fresh = seeded(3, 4) if isinstance(generators, list) else seeded(3)[0]
            pictures.append(generate(pipe, prompt=["a zebra", "a lion"], generator=fresh, eta=eta))
            states.append(torch.cat([g.get_state() for g in (fresh if isinstance(fresh, list) else [fresh])]))
        assert torch.equal(*pictures)
        assert torch.equal(*states), "the generators were used differently"


@pytest.mark.parametrize("timesteps", [{"timesteps": [900, 500, 100]}, {"sigmas": [10.0, 3.0, 1.0, 0.0]}], ids=str)
def test_same_pixels_as_stable_diffusion_with_custom_timesteps(tiny_pipeline_folder, timesteps):
    pictures = []
    for cls in (AnimalLDMPipeline, StableDiffusionPipeline):
        pipe = cls.from_pretrained(tiny_pipeline_folder)
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        pictures.append(generate(pipe, **timesteps))
        assert pipe.num_timesteps == 3
    assert torch.equal(*pictures)


def test_stable_diffusion_loads_without_complaint_but_for_the_classes(tiny_pipeline_folder, library_warnings):
    scheduler = StableDiffusionPipeline.from_pretrained(tiny_pipeline_folder).scheduler
    assert all("classes" in message for message in library_warnings())
    assert scheduler.config == AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder).scheduler.config


def test_own_class_loads_without_a_warning(tiny_pipeline_folder, library_warnings):
    AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    assert library_warnings() == []


def test_every_list_in_the_index_is_a_component(tiny_pipeline_folder):
    """Loading from the Hub takes every list in model_index.json for a component and fails if it is none."""
    index = json.loads(Path(tiny_pipeline_folder, "model_index.json").read_text())
    lists = {name for name, value in index.items() if isinstance(value, list) and value != [None, None]}
    assert lists == {path.name for path in Path(tiny_pipeline_folder).iterdir() if path.is_dir()}
    assert list(index["classes"]) == TINY_CLASSES


def test_file_imports_nothing_that_a_user_of_diffusers_lacks():
    """It is copied next to the weights and runs where this package is not installed."""
    tree = ast.parse(Path(inspect.getfile(AnimalLDMPipeline)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert not any(getattr(node, "level", 0) for node in imports)
    assert {module.partition(".")[0] for module in modules} - sys.stdlib_module_names == {
        "torch",
        "diffusers",
        "transformers",
    }


# Sizes


def test_size_defaults_to_that_of_the_unet(pipe):
    pipe.unet.register_to_config(sample_size=(4, 12))
    assert generate(pipe).shape == (1, 3, 8, 24)
    assert generate(pipe, height=16).shape == (1, 3, 16, 24)


def test_size_that_the_unet_cannot_halve(pipe):
    """9 rows of latents go down to 5 and must come up to 9 again."""
    assert generate(pipe, height=18, width=16).shape == (1, 3, 18, 16)


# The guidance interval


@contextlib.contextmanager
def batches_seen(module):
    """The batch sizes `module` is called with."""
    seen = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    yield seen
    hook.remove()


def test_whole_interval_is_plain_guidance(pipe):
    assert torch.equal(generate(pipe, guidance_interval=(0.0, 1.0)), generate(pipe))


@pytest.mark.parametrize("point", [0.0, 0.5, 1.0])
def test_empty_interval_is_no_guidance(pipe, point):
    drawn = generate(pipe, num_inference_steps=4, guidance_interval=(point, point))
    assert torch.equal(drawn, generate(pipe, num_inference_steps=4, guidance_scale=1.0))


@pytest.mark.parametrize(
    ("interval", "guided"),
    [
        ((0.0, 1.0), [1, 1, 1, 1, 1]),
        ((0.2, 0.8), [0, 1, 1, 1, 0]),
        ((0.2, 0.6), [0, 1, 1, 0, 0]),
        ((0.3, 0.5), [0, 0, 1, 0, 0]),
        ((0.0, 0.1), [1, 0, 0, 0, 0]),
        ((0.85, 1.0), [0, 0, 0, 0, 0]),
    ],
)
def test_steps_outside_the_interval_cost_half(pipe, interval, guided):
    with batches_seen(pipe.unet) as batches:
        generate(pipe, prompt=["a zebra", "a lion"], num_inference_steps=5, guidance_interval=interval)
    assert batches == [4 if step else 2 for step in guided]


def test_guidance_within_an_interval(pipe):
    """Guiding the first two of four steps is what the library's own cut-off callback does after the second."""
    pictures = generate(pipe, num_inference_steps=4, guidance_interval=(0.0, 0.5))
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    assert torch.equal(pictures, generate(pipe, num_inference_steps=4, callback_on_step_end=cutoff))
    assert not torch.equal(pictures, generate(pipe, num_inference_steps=4))


def test_interval_takes_each_prompt_for_itself(pipe):
    inputs = {"num_inference_steps": 4, "guidance_interval": (0.25, 0.75)}
    batch = generate(pipe, prompt=["a zebra", "a lion"], generator=seeded(0, 1), **inputs)
    for i, prompt in enumerate(["a zebra", "a lion"]):
        alone = generate(pipe, prompt=prompt, generator=seeded(i), **inputs)
        torch.testing.assert_close(batch[i], alone[0], atol=1e-4, rtol=0)


# Perturbed-attention guidance


@pytest.mark.parametrize("layers", ["mid", ["mid_block", "up_blocks.0"], ["(down|up)_blocks"]], ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 3.0, "guidance_rescale": 0.7},
        {"prompt": ["a zebra", "a lion"], "negative_prompt": ["a lion", ""], "num_images_per_prompt": 2},
    ],
    ids=str,
)
def test_same_pixels_as_stable_diffusion_with_perturbed_attention(tiny_pipeline_folder, layers, changes):
    ours = AnimalLDMPipeline.from_pretrained(tiny_pipeline_folder)
    theirs = StableDiffusionPAGPipeline.from_pretrained(tiny_pipeline_folder, pag_applied_layers=layers)
    plain = generate(ours, **changes)
    perturbed = generate(ours, pag_scale=2.0, pag_applied_layers=layers, **changes)
    assert torch.equal(perturbed, generate(theirs, pag_scale=2.0, **changes))
    assert not torch.equal(perturbed, plain)
    assert torch.equal(generate(ours, **changes), plain), "the UNet is not as it was before"


@pytest.mark.parametrize(("scale", "copies"), [(1.0, 2), (3.0, 3)])
def test_perturbed_attention_is_evaluated_in_the_guided_steps(pipe, scale, copies):
    inputs = {"guidance_scale": scale, "pag_scale": 2.0, "guidance_interval": (0.25, 0.75)}
    with batches_seen(pipe.unet) as batches:
        generate(pipe, prompt=["a zebra", "a lion"], num_inference_steps=4, **inputs)
    assert batches == [2, 2 * copies, 2 * copies, 2]


def test_perturbed_attention_takes_each_prompt_for_itself(pipe):
    inputs = {"pag_scale": 2.0, "pag_applied_layers": ["mid", "up"]}
    batch = generate(pipe, prompt=["a zebra", "a lion"], generator=seeded(0, 1), **inputs)
    for i, prompt in enumerate(["a zebra", "a lion"]):
        alone = generate(pipe, prompt=prompt, generator=seeded(i), **inputs)
        torch.testing.assert_close(batch[i], alone[0], atol=1e-4, rtol=0)


def test_attention_is_as_before_after_an_error(pipe):
    plain = generate(pipe)

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = pipe.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(pipe, pag_scale=2.0)
    hook.remove()
    assert torch.equal(generate(pipe), plain)


def test_perturbed_attention_with_fused_projections(pipe):
    expected = generate(pipe, pag_scale=2.0)
    pipe.fuse_qkv_projections()
    torch.testing.assert_close(generate(pipe, pag_scale=2.0), expected, atol=1e-4, rtol=0)
    pipe.unfuse_qkv_projections()
    assert torch.equal(generate(pipe, pag_scale=2.0), expected)


# Defaults of a model

OWN_DEFAULTS = {
    "num_inference_steps": 3,
    "guidance_rescale": 0.5,
    "guidance_interval": (0.25, 0.75),
    "pag_scale": 2.0,
    "pag_applied_layers": ("mid", "up_blocks.0"),
}


@pytest.fixture
def with_defaults(pipe):
    return AnimalLDMPipeline(**pipe.components, classes=pipe.classes, sampling_defaults=OWN_DEFAULTS)


def sample(pipe, **inputs):
    return pipe("a zebra", output_type="pt", generator=seeded(0), **inputs).images


def test_own_defaults_apply_where_an_argument_is_not_given(pipe, with_defaults):
    pipe.set_progress_bar_config(disable=True)
    with_defaults.set_progress_bar_config(disable=True)
    assert torch.equal(sample(with_defaults), sample(pipe, **OWN_DEFAULTS))
    given = {
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "guidance_rescale": 0.0,
        "guidance_interval": (0.0, 1.0),
        "pag_scale": 1.0,
        "pag_applied_layers": "mid",
    }
    assert torch.equal(sample(with_defaults, **given), sample(pipe, **given))


def test_own_defaults_survive_saving_and_other_pipelines(with_defaults, tmp_path, library_warnings):
    expected = SAMPLING_DEFAULTS | OWN_DEFAULTS
    with_defaults.save_pretrained(tmp_path)
    assert AnimalLDMPipeline.from_pretrained(tmp_path).sampling_defaults == expected
    assert library_warnings() == []
    plain = StableDiffusionPipeline.from_pipe(
        with_defaults, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    assert AnimalLDMPipeline.from_pipe(plain).sampling_defaults == expected
    StableDiffusionPipeline.from_pretrained(tmp_path)("a zebra", num_inference_steps=1)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"steps": 3}, r"may only hold .*also holds \['steps'\]"),
        ({"num_inference_steps": 2.5}, "whole `num_inference_steps`"),
        ({"num_inference_steps": 0}, "whole `num_inference_steps`"),
        ({"guidance_scale": "3"}, "finite `guidance_scale`"),
        ({"guidance_scale": float("nan")}, "finite `guidance_scale`"),
        ({"guidance_rescale": 2}, "from 0 to 1"),
        ({"guidance_interval": 0.5}, "two ascending fractions"),
        ({"guidance_interval": [0.8, 0.2]}, "two ascending fractions"),
        ({"pag_scale": -1}, "finite `pag_scale` of at least 0"),
        ({"pag_applied_layers": []}, "one or more texts"),
        ({"pag_applied_layers": "mid"}, "one or more texts"),
    ],
)
def test_own_defaults_out_of_range(pipe, defaults, message):
    with pytest.raises(ValueError, match=message):
        AnimalLDMPipeline(**pipe.components, sampling_defaults=defaults)


# Prompts


def test_unconditional_embedding_is_that_of_the_empty_prompt(pipe):
    with torch.no_grad():
        _, negative = pipe.encode_prompt("a zebra")
        empty, none = pipe.encode_prompt("", do_classifier_free_guidance=False)
    assert torch.equal(negative, empty)
    assert none is None


def test_encoding_a_prompt_keeps_gradients(pipe):
    """`no_grad` stands on the call alone, so that training may use the rest."""
    embeds, _ = pipe.encode_prompt("a zebra")
    assert embeds.requires_grad


def test_long_prompt_warns_with_the_part_cut_off(pipe, library_warnings):
    fits = "zebra " + "x" * 17  # 22 tokens and two marks
    generate(pipe, prompt=fits)
    assert library_warnings() == []
    picture = generate(pipe, prompt=fits + "yz")
    (message,) = library_warnings()
    assert "26 tokens, but the text encoder accepts 24" in message
    assert message.endswith("cut off: 'yz'.")
    assert torch.equal(picture, generate(pipe, prompt=fits + "ab"))


def test_warning_of_a_prompt_comes_once(pipe, library_warnings):
    generate(pipe, prompt=["zebra " * 5] * 3, num_images_per_prompt=2, generator=None)
    assert len(library_warnings()) == 1


def test_long_negative_prompt_warns(pipe, library_warnings):
    generate(pipe, negative_prompt="x" * 30)
    assert ["cut off" in message for message in library_warnings()] == [True]


@pytest.mark.parametrize(
    "prompt", ["a zebra", "Zebra", "two ZEBRAS", "a pack of wolves", "polar bears", "a Polar-Bear.", "lion's mane", ""]
)
def test_prompt_that_names_a_class_passes(pipe, prompt, library_warnings):
    generate(pipe, prompt=prompt)
    assert library_warnings() == []


@pytest.mark.parametrize("prompt", ["a pony", "a bear", "polar", "zebrafish", "dandelion", " "])
def test_prompt_that_names_no_class_warns(pipe, prompt, library_warnings):
    generate(pipe, prompt=["a zebra", prompt, prompt])
    (message,) = library_warnings()
    assert repr(prompt) in message
    assert "lion, polar bear, wolf, zebra" in message


@pytest.mark.parametrize(
    ("prompt", "unknown", "warnings"),
    [
        ("a white zebra", [], 0),
        ("Two polar bears!", [], 0),  # the class and its plural, though no caption has them
        ("white, at the river", [], 0),  # as a caption without its class
        ("a Purple zebra on purple", ["purple"], 1),
        ("a purple pony", ["purple", "pony"], 2),  # names no class either
        ("", [], 0),
    ],
)
def test_prompt_with_words_that_no_caption_has_warns(tmp_path, library_warnings, prompt, unknown, warnings):
    known = {"classes": TINY_CLASSES, "vocabulary": "a white zebra at the river on two"}
    AnimalLDMPipeline(**tiny_components(), **known).save_pretrained(tmp_path)
    pipe = AnimalLDMPipeline.from_pretrained(tmp_path)
    assert pipe.unknown_words(prompt) == unknown
    pipe.encode_prompt(prompt)
    messages = library_warnings()
    assert len(messages) == warnings
    assert not unknown or messages[0].endswith(f"or missing there: {', '.join(unknown)}.")


def test_model_without_classes_takes_any_prompt(library_warnings):
    generate(AnimalLDMPipeline(**tiny_components()), prompt="a pony")
    assert library_warnings() == []


@pytest.mark.parametrize(
    "name",
    [
        *("zebra", "pony", "monkey", "fox", "ostrich", "wolf", "calf", "giraffe", "mouse", "goose", "ox", "mongoose"),
        *("sheep", "fish", "butterfly", "buffalo", "hippopotamus", "lynx", "sea lion", "moths and butterflies"),
    ],
)
def test_plurals_of_captions_are_recognised(name):
    assert names_class(f"A photo of two {plural(name)}!", name)
    assert names_class(f"a {name}", name.title())


# Errors


EMBEDS = torch.zeros(1, 24, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 17}, "multiples of 2.* 17 and 16"),
        ({"width": -2}, "multiples of 2"),
        ({"num_inference_steps": 0}, "`num_inference_steps`.*at least 1"),
        ({"num_images_per_prompt": 0}, "`num_images_per_prompt`.*at least 1"),
        ({"guidance_interval": (0.6, 0.4)}, "0 <= start <= stop <= 1"),
        ({"guidance_interval": (-0.1, 0.4)}, "0 <= start <= stop <= 1"),
        ({"guidance_interval": (0.0, 25)}, "0 <= start <= stop <= 1"),
        ({"guidance_interval": (0.0, float("nan"))}, "0 <= start <= stop <= 1"),
        ({"guidance_interval": (0.5,)}, "0 <= start <= stop <= 1"),
        ({"pag_scale": -1.0}, "`pag_scale` must be a finite number of at least 0"),
        ({"pag_scale": float("nan")}, "`pag_scale` must be a finite number of at least 0"),
        ({"pag_scale": 1.0, "pag_applied_layers": []}, r"but is \[\]"),
        ({"pag_scale": 1.0, "pag_applied_layers": ["mid", "moon"]}, r"mid_block.*of which \['moon'\] match none"),
        ({"output_type": "jpeg"}, "'jpeg'"),
        ({"callback_on_step_end_tensor_inputs": ["latents", "noise_pred"]}, r"\['noise_pred'\]"),
        ({"prompt": None}, "found neither"),
        ({"prompt": []}, "`prompt` must be"),
        ({"prompt": [3]}, "`prompt` must be"),
        ({"prompt": ("a zebra",)}, "`prompt` must be"),
        ({"prompt": "a zebra", "prompt_embeds": EMBEDS}, "found both"),
        ({"negative_prompt": 3}, "`negative_prompt` must be"),
        ({"negative_prompt": ["a lion", "a wolf"]}, "each of the 1, but 2"),
        ({"negative_prompt": "a lion", "negative_prompt_embeds": EMBEDS}, "found both"),
        ({"prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, :5]}, r"\(1, 24, 8\).*\(1, 5, 8\)"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, r"\(1, 4, 8, 8\).*\(1, 4, 16, 16\)"),
        ({"generator": [torch.Generator(), torch.Generator()]}, "list of generators of length 2.* size of 1"),
        ({"timesteps": [900, 100]}, "timestep"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_errors(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(pipe, **changes)
