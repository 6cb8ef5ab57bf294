import pytest
import torch
from diffusers import UNet2DConditionModel

from animal_ldm.schedulers import SCHEDULERS, build_sampling_scheduler
from animal_ldm.training.objective import (
    Denoiser,
    build_noise_scheduler,
    diffusion_loss,
    loss_weights,
    training_target,
)
from animal_ldm.training.text import build_text_encoder, build_tokenizer
from tests.conftest import tiny_components


def test_velocity_of_a_noised_latent_gives_back_latent_and_noise():
    scheduler = build_noise_scheduler(1000, "v_prediction")
    latents, noise = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    timesteps = torch.tensor([0, 300, 700, 999])
    velocity = training_target(scheduler, latents, noise, timesteps)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    signal = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - signal**2).sqrt()
    torch.testing.assert_close(signal * noisy - sigma * velocity, latents, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sigma * noisy + signal * velocity, noise, atol=1e-5, rtol=1e-4)


def test_epsilon_target_is_the_noise():
    noise = torch.randn(2, 2, 3, 3)
    target = training_target(
        build_noise_scheduler(10, "epsilon"), torch.zeros(2, 2, 3, 3), noise, torch.tensor([1, 2])
    )
    assert target is noise


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_same_error_of_the_clean_latents_alike(prediction_type):
    """An error d of x0 is an error d * sqrt(SNR) of epsilon, and d * sqrt(SNR + 1) of v."""
    scheduler = build_noise_scheduler(1000, prediction_type)
    timesteps = torch.tensor([10, 200, 500, 900])
    snr = scheduler.alphas_cumprod[timesteps] / (1 - scheduler.alphas_cumprod[timesteps])
    squared_error = snr if prediction_type == "epsilon" else snr + 1
    weights = loss_weights(scheduler, timesteps, snr_gamma=5.0)
    torch.testing.assert_close(weights * squared_error, snr.clamp(max=5.0))
    assert torch.equal(loss_weights(scheduler, timesteps, None), torch.ones(4))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_scheduler_draws_what_a_perfect_denoiser_knows(name, prediction_type):
    """Of data that are all the same point, the prediction is known; every scheduler ends there from any noise."""
    noise_scheduler = build_noise_scheduler(1000, prediction_type)
    scheduler = build_sampling_scheduler(name, noise_scheduler)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999
    generator = torch.Generator().manual_seed(0)
    point = torch.full((1, 1, 4, 4), 0.7)
    latents = torch.randn(point.shape, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, t)
        signal = noise_scheduler.alphas_cumprod[t.long()].sqrt()
        noise = (scaled - signal * point) / (1 - signal**2).sqrt()
        predicted = training_target(noise_scheduler, point, noise, t.long()[None])
        latents = scheduler.step(predicted, t, latents, generator=generator).prev_sample
    torch.testing.assert_close(latents, point, atol=0.1, rtol=0)  # the last step leaves a noise of 0.03


@pytest.mark.parametrize(("name", "kept"), [("ddim", 0.94), ("euler_ancestral", 0.88), ("sde_dpm", 0.98)])
def test_how_much_of_the_spread_of_normal_latents_is_left_after_25_steps(name, kept):
    noise_scheduler = build_noise_scheduler(1000, "v_prediction")
    scheduler = build_sampling_scheduler(name, noise_scheduler)
    scheduler.set_timesteps(25)
    generator, std = torch.Generator().manual_seed(0), 0.7
    latents = torch.randn((1, 1, 100, 200), generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, t)
        power = noise_scheduler.alphas_cumprod[t.long()]
        clean = noisy * power.sqrt() * std**2 / (power * std**2 + 1 - power)  # the mean of what it may have been
        noise = (noisy - power.sqrt() * clean) / (1 - power).sqrt()
        velocity = training_target(noise_scheduler, clean, noise, t.long()[None])
        latents = scheduler.step(velocity, t, latents, generator=generator).prev_sample
    assert latents.std().item() / std == pytest.approx(kept, abs=0.02)


def test_loss_is_the_weighted_mean_over_samples():
    prediction, target = torch.zeros(2, 1, 2, 2), torch.stack([torch.full((1, 2, 2), v) for v in (1.0, 3.0)])
    assert diffusion_loss(prediction, target, torch.tensor([2.0, 1.0])).item() == pytest.approx((2 * 1 + 9) / 2)


def test_denoiser_encodes_repeated_captions_as_if_each_were_encoded_alone():
    components = tiny_components()
    unet, text_encoder, tokenizer = (components[name] for name in ("unet", "text_encoder", "tokenizer"))
    ids = tokenizer(["a lion", "a wolf", "a lion"], padding="max_length", return_tensors="pt").input_ids
    latents, timesteps = torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    along, _ = Denoiser(unet, text_encoder)(latents, timesteps, ids[:2], torch.tensor([0, 1, 0]))
    frozen, _ = Denoiser(unet, None)(latents, timesteps, text_encoder(ids)[0])
    torch.testing.assert_close(along, frozen)


def test_gradients_of_repeated_captions_are_the_same_to_the_last_bit_with_several_threads():
    """The gradient of a caption that stands in a batch many times is a sum, whose order must not be left to chance."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a lion", "a wolf"])
    text_encoder = build_text_encoder(tokenizer)
    unet = UNet2DConditionModel.from_config({**tiny_components()["unet"].config, "cross_attention_dim": 128})
    ids = tokenizer(["a lion", "a wolf"], padding="max_length", return_tensors="pt").input_ids
    latents, timesteps = torch.randn(32, 4, 8, 8), torch.randint(1000, (32,))
    denoiser = Denoiser(unet, text_encoder)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = []
        for _ in range(10):
            denoiser.zero_grad()
            denoiser(latents, timesteps, ids, torch.arange(32) % 2)[0].square().mean().backward()
            gradients.append(torch.cat([weight.grad.flatten() for weight in text_encoder.parameters()]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)
