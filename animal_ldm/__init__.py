"""Train a text-to-image latent diffusion model on your own photos, measure it honestly, publish it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline_animal_ldm import AnimalLDMPipeline, AnimalLDMPipelineOutput

__version__ = "0.1.0"
__all__ = ["AnimalLDMPipeline", "AnimalLDMPipelineOutput", "__version__"]


def __getattr__(name: str):
    # torch and diffusers take seconds to import; `animal-ldm --help` needs neither.
    if name.startswith("AnimalLDMPipeline"):
        from . import pipeline_animal_ldm

        return getattr(pipeline_animal_ldm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
