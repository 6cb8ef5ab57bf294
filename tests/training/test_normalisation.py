import torch

from animal_ldm.pixels import to_model_range
from animal_ldm.training.normalisation import latent_statistics, normalize_latents
from tests.conftest import tiny_vae
from tests.training.conftest import random_pixels


def test_normalising_moves_the_latents_and_leaves_the_reconstructions():
    torch.manual_seed(0)
    vae, pixels = tiny_vae(), random_pixels(64)
    with torch.no_grad():
        vae.quant_conv.bias[:4] += torch.tensor([3.0, -2.0, 0.5, 0.0])
        images = to_model_range(pixels[:8])
        before = vae.encode(images).latent_dist
        decoded_before = vae.decode(before.mode()).sample
    mean, std = latent_statistics(vae, pixels, 16, seed=0)
    normalize_latents(vae, mean, std)
    with torch.no_grad():
        after = vae.encode(images).latent_dist
        torch.testing.assert_close(vae.decode(after.mode()).sample, decoded_before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.std * std.float()[None, :, None, None], before.std, atol=1e-5, rtol=1e-4)
    mean, std = latent_statistics(vae, pixels, 16, seed=0)
    torch.testing.assert_close(mean, torch.zeros(4, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(4, dtype=torch.float64), atol=1e-4, rtol=0)
