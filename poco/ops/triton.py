"""Both passes by the Triton kernels of :mod:`poco.kernels`, which are imported here, and Triton with them.

Same functions as :mod:`poco.ops.reference`. The kernels take float32 or bfloat16 and add up in float32: bfloat16 where
all but the activity is that, which is then rounded to it too, else float32. Products of float32 keep its precision
unless torch's own are of TF32 there (``torch.backends.cuda.matmul.fp32_precision`` or ``allow_tf32``).
"""

from __future__ import annotations

import torch

from poco.kernels.film_forecast import film_forecast
from poco.kernels.film_forecast_backward import film_forecast_backward
from poco.kernels.inference import inference
from poco.kernels.latent_pool import latent_pool
from poco.kernels.latent_pool_backward import latent_pool_backward
from poco.kernels.latent_transformer import kept_bytes, latent_transformer, latent_transformer_backward, most_latents

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

__all__ = [
    "DTYPES",
    "film_forecast",
    "film_forecast_backward",
    "inference",
    "kept_bytes",
    "latent_pool",
    "latent_pool_backward",
    "latent_transformer",
    "latent_transformer_backward",
    "most_latents",
]
