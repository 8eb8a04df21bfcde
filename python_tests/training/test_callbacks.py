"""Progress in plain lines and in colour, and TensorBoard."""

from __future__ import annotations

import builtins
import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.recordings import waves

from poco.baselines import NLinear
from poco.data.splits import split
from poco.errors import MissingExtraError
from poco.training import Progress, TensorBoard, TrainConfig, fit

SMALL = TrainConfig(steps=20, batch_size=8, val_every=5, log_every=5, device="cpu")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(stream: io.StringIO, **more: Any) -> str:
    progress = Progress("fitting", stream, **more)
    fit(NLinear(12, 4), split([waves()], context=12, horizon=4), SMALL, callbacks=[progress])
    progress.message("a word")
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines = watched(io.StringIO(), seconds_between=0.0).splitlines()
    assert [line.split(",")[0] for line in lines[:4]] == [f"fitting: step {n}/20" for n in (5, 10, 15, 20)]
    assert "validation" in lines[1]
    assert lines[3].endswith("0:00 left")
    assert lines[4] == "a word"


def test_the_best_is_named_with_its_step() -> None:
    stream = io.StringIO()
    progress = Progress("fitting", stream, seconds_between=0.0)
    progress.start(0, 40)
    for step, error, best in ((10, 0.5, True), (20, 0.6, False)):
        progress.validated({"step": step, "val_mse": error, "best": best})
        progress.log({"step": step, "loss": 1.0})
    first, second = stream.getvalue().splitlines()
    assert "validation 0.5000, best 0.5000 at step 10," in first
    assert "validation 0.6000, best 0.5000 at step 10," in second


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_last_line_knows_the_last_validation(kind: type[io.StringIO]) -> None:
    stream, cut = kind(), split([waves()], context=12, horizon=4)
    settings = dataclasses.replace(SMALL, learning_rate=1e-3)
    history = fit(NLinear(12, 4), cut, settings, callbacks=[Progress("fitting", stream, seconds_between=0.0)])
    assert history.best_step == 20
    error = next(record["val_mse"] for record in reversed(history.records) if "val_mse" in record)
    last = stream.getvalue()[-300:]
    assert f"validation {error:.4f}, best {error:.4f} at step 20" in " ".join(last.split())
    if kind is io.StringIO:
        assert stream.getvalue().count("step 20/20") == 1


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_an_early_stop_is_said(kind: type[io.StringIO]) -> None:
    stream, settings = kind(), dataclasses.replace(SMALL, learning_rate=10.0, steps=100, patience=2)
    cut = split([waves()], context=12, horizon=4)
    history = fit(NLinear(12, 4), cut, settings, callbacks=[Progress("fitting", stream, seconds_between=1000.0)])
    assert history.stopped == "patience"
    told = f"fitting: stopped early at step {history.step} of 100, after 2 validations without a new best"
    assert stream.getvalue().splitlines()[-1].endswith(told)


def test_few_lines_for_many_steps() -> None:
    assert len(watched(io.StringIO(), seconds_between=1000.0).splitlines()) == 2


def test_a_bar_in_a_terminal() -> None:
    pytest.importorskip("rich")
    text = watched(Terminal())
    assert "20/20" in text
    assert "fitting" in text


def test_plain_lines_in_a_terminal_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_rich(name: str, *args: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "rich":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_rich)
    assert "fitting: step 20/20" in watched(Terminal())


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    cut = split([waves()], context=12, horizon=4)
    fit(NLinear(12, 4), cut, SMALL, callbacks=[TensorBoard(tmp_path / "logs")])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [e.step for e in events.Scalars("validation/mse")] == [5, 10, 15, 20]
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/learning_rate", "validation/mse"}


def test_tensorboard_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"poco-forecast\[tensorboard\]"):
        TensorBoard(tmp_path)
