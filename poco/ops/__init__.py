"""The two passes, what lies between them, and all of it for inference, as torch custom ops; who computes them."""

from poco.ops.backends import kernels_serve, use_backend
from poco.ops.film_forecast import film_forecast
from poco.ops.film_loss import film_loss
from poco.ops.inference import inference
from poco.ops.latent_pool import latent_pool
from poco.ops.latent_transformer import latent_transformer, latents_by_kernels
from poco.ops.parameters import FilmParameters
from poco.ops.training import TrainingCall, train, trains_at_once

__all__ = [
    "FilmParameters",
    "TrainingCall",
    "film_forecast",
    "film_loss",
    "inference",
    "kernels_serve",
    "latent_pool",
    "latent_transformer",
    "latents_by_kernels",
    "train",
    "trains_at_once",
    "use_backend",
]
