"""The two passes over the population as torch custom ops, and the choice of who computes them.

With them what happens to the latents before and between the passes, for inference.
"""

from poco.ops.backends import kernels_serve, use_backend
from poco.ops.film_forecast import film_forecast
from poco.ops.film_loss import film_loss
from poco.ops.film_shift import film_shift
from poco.ops.latent_pool import latent_pool
from poco.ops.latent_transformer import latent_queries, latent_transformer
from poco.ops.reference import FilmParameters

__all__ = [
    "FilmParameters",
    "film_forecast",
    "film_loss",
    "film_shift",
    "kernels_serve",
    "latent_pool",
    "latent_queries",
    "latent_transformer",
    "use_backend",
]
