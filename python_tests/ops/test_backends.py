"""The choice of a backend."""

from __future__ import annotations

import pytest
import torch
from helpers.passes import latent_pool_inputs

from poco.errors import BackendError
from poco.ops import backends, use_backend


def test_report_names_every_backend_with_a_reason() -> None:
    report = backends.report()
    assert set(report) == {"cpu", "triton", "reference"}
    assert report["reference"][0]
    assert all(reason for _, reason in report.values())


def test_forced_in_a_block_and_for_good() -> None:
    cpu = torch.device("cpu")
    with use_backend("reference"):
        assert backends.choose(cpu).name == "reference"
    use_backend("reference")
    assert backends.choose(cpu).name == "reference"
    use_backend(None)


def test_a_backend_that_cannot_run_here_is_an_error_that_says_why() -> None:
    with pytest.raises(BackendError, match="there is no backend 'tpu'"):
        use_backend("tpu")
    missing = [name for name, (here, _) in backends.report().items() if not here]
    for name in missing:
        with pytest.raises(BackendError, match=f"backend '{name}' cannot run here: .+"):
            use_backend(name)


def test_environment_forces_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCO_BACKEND", "tpu")
    with pytest.raises(BackendError, match="there is no backend 'tpu'"):
        torch.ops.poco.latent_pool(*latent_pool_inputs())
