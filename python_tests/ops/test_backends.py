"""The choice of a backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from helpers.needs import needs_kernels
from helpers.passes import film_forecast_inputs, latent_pool_inputs

import poco
from poco import core
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


def chosen() -> str:
    return backends.choose(torch.device("cpu")).name


def in_a_thread(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_one_object_again_and_inside_itself() -> None:
    default, by_reference = chosen(), use_backend("reference")
    for _ in range(2):
        with by_reference:
            with by_reference:
                assert chosen() == "reference"
            assert chosen() == "reference"
        assert chosen() == default


def test_none_gives_the_choice_back_inside_a_block() -> None:
    default = chosen()
    with use_backend("reference"):
        with use_backend(None):
            assert chosen() == default
        assert chosen() == "reference"


def test_threads_do_not_meet() -> None:
    default, said = chosen(), []
    mine = use_backend("reference")

    def other() -> None:
        said.append(chosen())
        theirs = use_backend("reference")
        in_a_thread(lambda: said.append(chosen()))
        mine.__exit__(None, None, None)  # undoes what is forced here, as what it was made for is another thread's
        said.append(chosen())
        with mine, theirs:
            said.append(chosen())

    in_a_thread(other)
    assert said == [default, default, default, "reference"]
    assert chosen() == "reference"
    mine.__exit__(None, None, None)
    assert chosen() == default


@needs_kernels
@pytest.mark.parametrize("name", ["latent_pool", "film_forecast"])
def test_the_way_back_is_by_what_was_forced_for_the_way_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = {"latent_pool": latent_pool_inputs, "film_forecast": film_forecast_inputs}[name]
    inputs, called = make(dtype=torch.float32), []
    run = core.run_kernel
    monkeypatch.setattr(core, "run_kernel", lambda op, given: (called.append(op), run(op, given)))

    def forecast() -> torch.Tensor:
        out = getattr(torch.ops.poco, name)(*inputs)
        return (out if isinstance(out, torch.Tensor) else out[0]).sum()

    with use_backend("reference"):
        out = forecast()
    out.backward()
    assert not called
    out = forecast()
    with use_backend("reference"):
        out.backward()
    assert called == [f"{name}_float32"]


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


def test_each_gpu_is_asked_for_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities, asked, current = {0: (7, 5), 1: (9, 0)}, [], [0]

    def capability(device: int) -> tuple[int, int]:
        asked.append(device)
        return capabilities[device]

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "is_installed", lambda name: True)
    kernels = MagicMock(DTYPES=(torch.float32,))
    monkeypatch.setattr(poco.ops, "triton", kernels, raising=False)
    monkeypatch.setattr(backends, "_loaded", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    caches = (backends._default, backends._capability)
    for cached in caches:
        cached.cache_clear()
    try:
        old, new, either = torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda")
        for _ in range(2):
            assert backends.choose(old).name == "reference"
            assert backends.choose(new).name == "triton"
            assert not backends.multiplies_bfloat16(old)
            assert backends.multiplies_bfloat16(new)
        assert sorted(asked) == [0, 1]
        for index in (0, 1, 0):
            current[0] = index
            assert backends.choose(either).name == ("triton" if index else "reference")
            assert backends.multiplies_bfloat16(either) == bool(index)
        assert backends.report()["triton"][1].endswith(": GPU 1")
        with use_backend("triton"):
            assert backends.choose(new).name == "triton"
            with pytest.raises(BackendError, match=r"on cuda:0: the kernels need .* 8\.0 or above, this one has 7\.5"):
                backends.choose(old)
        backends._loaded.clear()
        backends._capability.cache_clear()
        capabilities[1] = (7, 0)
        assert backends.report()["triton"] == (
            False,
            "the kernels need a GPU of compute capability 8.0 or above, this one has 7.5",
        )
    finally:
        for cached in caches:
            cached.cache_clear()
