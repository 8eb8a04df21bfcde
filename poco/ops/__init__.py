"""The two passes over the population as torch custom ops, and the choice of who computes them."""

from poco.ops.backends import use_backend
from poco.ops.film_forecast import film_forecast
from poco.ops.latent_pool import latent_pool
from poco.ops.reference import FilmParameters

__all__ = ["FilmParameters", "film_forecast", "latent_pool", "use_backend"]
