import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.loading import load_component
from animal_ldm.training.models import (
    AUTOENCODERS,
    UNETS,
    build_autoencoder,
    build_unet,
    load_unet,
    use_attention,
)


@pytest.mark.parametrize("factor, channels", [(4, 4), (8, 4), (8, 16)])
def test_autoencoder_has_the_factor_and_channels_asked_for(factor, channels):
    vae = build_autoencoder("tiny", 32, factor, channels)
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist.mode()
        assert latents.shape == (1, channels, 32 // factor, 32 // factor)
        assert vae.decode(latents).sample.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("preset", UNETS)
def test_every_unet_preset_maps_latents_to_latents(preset):
    with torch.device("meta"):
        unet = build_unet(preset, 16, 4, 128, dropout=0.1)
        shape = unet(torch.zeros(2, 4, 16, 16), torch.zeros(2), torch.zeros(2, 32, 128)).sample.shape
    assert shape == (2, 4, 16, 16)


@pytest.mark.parametrize("preset", AUTOENCODERS)
def test_every_autoencoder_preset_builds(preset):
    with torch.device("meta"):
        assert build_autoencoder(preset, 128, 8, 4).num_parameters() > 1e6


@pytest.mark.parametrize("preset", [*UNETS.values(), *AUTOENCODERS.values()])
def test_no_channel_is_normalised_alone(preset):
    # it would lose its mean over the picture, and with it the picture's brightness and colour
    assert min(preset["block_out_channels"]) / preset["norm_num_groups"] >= 4


def test_impossible_sizes_are_named():
    with pytest.raises(InputError, match="downsample factor must be 2, 4 or 8"):
        build_autoencoder("tiny", 32, 3, 4)
    with pytest.raises(InputError, match="multiple of 4, but it is 6"):
        build_unet("tiny", 6, 4, 128, dropout=0.0)


def test_unet_comes_from_a_config_or_from_weights_and_must_fit(parts, tiny_pipeline_folder):
    assert load_unet(parts["unet"], 8, 4, 8, 0.0).config.cross_attention_dim == 8
    trained = load_unet(tiny_pipeline_folder, 8, 4, 8, 0.0)
    assert tuple(trained.config.block_out_channels) == (8, 16)
    with pytest.raises(InputError, match=r"'cross_attention_dim': 128.*has.*'cross_attention_dim': 8"):
        load_unet(parts["unet"], 8, 4, 128, 0.0)


def test_missing_component_says_what_was_expected(tmp_path):
    from diffusers import AutoencoderKL

    with pytest.raises(InputError, match="No AutoencoderKL was found in"):
        load_component(AutoencoderKL, str(tmp_path), "vae")


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may work here")
def test_xformers_without_its_kernels_is_a_plain_message():
    with pytest.raises(InputError, match="leave --attention at sdpa"):
        use_attention(build_unet("tiny", 16, 4, 8, 0.0), "xformers", torch.device("cpu"))


def test_attention_on_a_cpu_is_the_same_without_the_fused_kernel():
    unet = build_unet("tiny", 8, 4, 8, 0.0).eval()
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([1, 900]), torch.randn(2, 5, 8)
    with torch.no_grad():
        fused = unet(*inputs).sample
        use_attention(unet, "sdpa", torch.device("cpu"))
        torch.testing.assert_close(unet(*inputs).sample, fused, atol=1e-5, rtol=1e-5)
    assert {type(processor).__name__ for processor in unet.attn_processors.values()} == {"AttnProcessor"}


def test_caption_reaches_the_unet_by_the_time_embedding_too():
    unet = build_unet("tiny", 16, 4, 8, 0.0)
    assert unet.config.down_block_types == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".attn2." in name:
                weight.zero_()
        captions = torch.randn(2, 5, 8)
        first, second = (unet(torch.ones(1, 4, 16, 16), 10, caption[None]).sample for caption in captions)
    assert not torch.allclose(first, second)
