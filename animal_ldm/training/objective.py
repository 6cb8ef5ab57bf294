"""What the denoiser learns: to predict the noise or velocity of noisy latents."""

# diffusers annotates configs, outputs and tensors too narrowly for a type checker.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel


class Denoiser(nn.Module):
    """Everything that is trained, in one `forward`: what accelerate wraps and synchronises.

    Args:
        text_encoder: only if it is trained jointly.
        projector: for representation alignment, applied to the output of the UNet's middle block.
    """

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None, projector: nn.Module | None = None
    ):
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.projector = projector
        self.kept = {}
        if projector is not None:
            unet.mid_block.register_forward_hook(lambda module, inputs, output: self.kept.update(middle=output))

    def forward(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor,
        captions: torch.Tensor,
        texts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prediction `(B, C, h, w)` from noisy latents `(B, C, h, w)`, timesteps `(B,)` and captions.

        Captions are embeddings `(B, L, D)`; or, if the text encoder is trained jointly, token ids `(K, L)` of distinct
        captions, of which sample i has number `texts[i]`. The second result is the projected output of the UNet's
        middle block, None without a projector.
        """
        if self.text_encoder is not None:
            # F.embedding spreads the captions over the batch, because the gradients of indexing would be summed in an
            # order that depends on the CPU's threads.
            encoded = self.text_encoder(captions)[0]  # (K, L, D)
            captions = F.embedding(texts, encoded.flatten(1)).unflatten(1, encoded.shape[1:])
        prediction = self.unet(noisy_latents, timesteps, captions, return_dict=False)[0]
        return prediction, None if self.projector is None else self.projector(self.kept.pop("middle"))


def build_noise_scheduler(num_train_timesteps: int, prediction_type: str) -> DDPMScheduler:
    """Latent diffusion's schedule (arXiv 2112.10752): `scaled_linear` from 0.00085 to 0.012."""
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        clip_sample=False,
        steps_offset=1,
    )


def training_target(
    noise_scheduler: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the network learns to predict: the noise, or the velocity (Salimans & Ho 2022, arXiv 2202.00512)."""
    if noise_scheduler.config.prediction_type == "epsilon":
        return noise
    return noise_scheduler.get_velocity(latents, noise, timesteps)


def loss_weights(noise_scheduler: DDPMScheduler, timesteps: torch.Tensor, snr_gamma: float | None) -> torch.Tensor:
    """Weight of each sample's loss, `(B,)`: 1, or min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556, section 3.4).

    min(SNR, gamma) weights the squared error of the predicted clean latents. The squared error of epsilon is SNR times
    that error, the one of v is SNR + 1 times it, so the weight is divided by these factors.
    """
    if snr_gamma is None:
        return torch.ones(len(timesteps), device=timesteps.device)
    snr = compute_snr(noise_scheduler, timesteps)
    per_unit = snr if noise_scheduler.config.prediction_type == "epsilon" else snr + 1
    return snr.clamp(max=snr_gamma) / per_unit


def diffusion_loss(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared error, in float32."""
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))  # (B,)
    return (errors * weights).mean()
