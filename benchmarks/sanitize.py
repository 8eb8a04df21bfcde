"""Every kernel for GPUs once, on small inputs: ``compute-sanitizer python -m benchmarks.sanitize``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "python_tests"))


def main() -> int:
    """Runs the Triton kernels, forward and backward, inference and streams, in both precisions; raises on a fault.

    1 without a GPU.
    """
    if not torch.cuda.is_available():
        print("python -m benchmarks.sanitize needs a GPU that PyTorch sees", file=sys.stderr)
        return 1
    from helpers import inference, latents, parity  # type: ignore[import-not-found]

    import poco
    from poco.ops import triton

    sizes = {"counts": (37, 0, 70), "width": 128, "latents": 8}
    film = {"context": 48, "hidden": 130, "film": 67, "horizon": 16}
    for dtype in parity.TOLERANCES:
        parity.check_pool({**sizes, "segments": 3, "length": 16}, dtype, by=triton, device="cuda")
        parity.check_film({**sizes, **film}, dtype, by=triton, device="cuda")
        inference.check({"counts": (37, 5)}, dtype, by=triton, device="cuda")
        latents.check({"windows": 5}, dtype, device="cuda")
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("a", tuple(map(str, range(70))))]).eval()
    model.set_normalisation("a", torch.zeros(70), torch.ones(70))
    for precision in ("float32", "bf16"):  # a stream compares what the GPU computes when it is opened
        with poco.Stream(model, precision=precision, device="cuda") as stream:
            for frame in torch.randn(50, 70).numpy():
                stream.push(frame)
    torch.cuda.synchronize()
    print("every kernel ran and was right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
