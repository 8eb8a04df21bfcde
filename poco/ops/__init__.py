"""The two passes over the population as torch custom ops, what happens to the latents before and between them (for
inference), and the choice of who computes them."""

from poco.ops.backends import use_backend
from poco.ops.film_forecast import film_forecast
from poco.ops.latent_pool import latent_pool
from poco.ops.latent_reference import FeedForwardParameters, LatentParameters, LayerParameters
from poco.ops.latent_transformer import fuses_latents, latent_queries, latent_transformer
from poco.ops.reference import FilmParameters

__all__ = [
    "FeedForwardParameters",
    "FilmParameters",
    "LatentParameters",
    "LayerParameters",
    "film_forecast",
    "fuses_latents",
    "latent_pool",
    "latent_queries",
    "latent_transformer",
    "use_backend",
]
