"""Settings of torch that commands offer."""

from __future__ import annotations

from poco.errors import ConfigError


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads on the CPU; None leaves its own choice."""
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    import torch

    torch.set_num_threads(threads)
