"""The two passes over the population as torch custom ops, and the choice of who computes them.

With them what happens to the latents before and between the passes, for inference.
"""

from poco.ops.backends import use_backend
from poco.ops.film_forecast import film_forecast
from poco.ops.latent_pool import latent_pool
from poco.ops.latent_transformer import fuses_latents, latent_queries, latent_transformer
from poco.ops.reference import FilmParameters

__all__ = [
    "FilmParameters",
    "film_forecast",
    "fuses_latents",
    "latent_pool",
    "latent_queries",
    "latent_transformer",
    "use_backend",
]
