"""What commands read: the same options everywhere, and no more files than wanted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poco.data.simulate import simulate
from poco.training import train

SHORT = ["--context", "16", "--horizon", "4", "--steps", "4", "--no-baselines", "--device", "cpu"]
TABLES = ["--orientation", "frames x units", "--rate", "20", "--header"]


def tables(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name, recording in zip(names, simulate(len(names), 6, 300, seed=1), strict=True):
        header = ",".join(f"n{i}" for i in range(6))
        np.savetxt(folder / f"{name}.csv", recording.activity.T, delimiter=",", header=header, comments="")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of two sessions, and a file that is none."""
    made = tables(tmp_path_factory.mktemp("reading") / "data", "a", "b")
    (made / "notes.txt").write_text("the second animal was tired\n")
    return made


@pytest.fixture
def run(poco: Callable, folder: Path) -> Path:
    out = folder.parent / "run"
    if not out.exists():
        done = poco("train", folder, "--sessions", "a", *TABLES, *SHORT, "--out", out)
        assert done.code == 0, done.err
    return out


def test_a_stray_file_is_left_out(poco: Callable, folder: Path, tmp_path: Path) -> None:
    refused = poco("train", folder, *TABLES, *SHORT)
    assert refused.code == 2
    assert "notes.txt" in refused.err
    assert "to leave it out: --without notes, or files = [...] in dataset.toml" in refused.err
    done = poco("train", folder, "--without", "notes", *TABLES, *SHORT, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert [entry["session"] for entry in done.json["sessions"]] == ["a", "b"]
    assert poco("eval", tmp_path / "run", "--no-baselines").code == 0


def test_one_session_of_a_folder_with_a_stray_file(poco: Callable, run: Path, folder: Path, tmp_path: Path) -> None:
    one = [folder, "--session", "b"]
    assert poco("adapt", run, *one, "--out", tmp_path / "adapted").code == 0
    assert poco("forecast", tmp_path / "adapted", *one, "--out", tmp_path / "f.npz").code == 0
    assert poco("report", tmp_path / "adapted", "--no-baselines").code == 0


def test_stream_reads_tables_too(poco: Callable, run: Path, folder: Path) -> None:
    for options in ([], ["--header", "--leave-out", "other"]):
        done = poco("stream", run, "--replay", folder / "a.csv", "--speed", "0", "--json", *options)
        assert done.code == 0, done.err
        assert done.json["units"] == 6


def test_eval_reads_what_a_run_does_not_say(poco: Callable, folder: Path, tmp_path: Path) -> None:
    import poco as library

    read = library.read(folder / "a.csv", orientation="frames x units", rate_hz=20, header=True)
    copy = [library.Recording(read[0].activity, "a", 20.0, read[0].unit_ids)]
    sizes = library.POCOConfig(
        context=12, horizon=4, segment_length=6, latents=3, width=8, heads=2, head_width=8, film_width=8
    )
    settings = library.TrainConfig(steps=4, batch_size=8, val_every=4, device="cpu")
    train(copy, model_config=sizes, train_config=settings, out=tmp_path / "run", progress=False)
    unknown = poco("eval", tmp_path / "run", "--no-baselines")
    assert unknown.code == 2
    assert "--data PATH" in unknown.err
    done = poco("eval", tmp_path / "run", "--no-baselines", "--data", folder / "a.csv", *TABLES)
    assert done.code == 0, done.err


def test_no_baselines_is_remembered(poco: Callable, run: Path) -> None:
    again = poco("train", "--out", run, "--resume", "--json")
    assert again.code == 0, again.err
    assert list(again.json["baselines"]) == ["copy"]
    compared = poco("train", "--out", run, "--resume", "--baselines", "--json")
    assert "mlp" in compared.json["baselines"]
    assert "mlp" in poco("train", "--out", run, "--resume", "--json").json["baselines"]


def test_resume_reads_as_the_run_did(poco: Callable, run: Path, folder: Path, tmp_path: Path) -> None:
    resume = ["--resume", "--out", tmp_path / "run"]
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(folder, tmp_path / "moved")
    done = poco("train", tmp_path / "moved", *resume)
    assert done.code == 0, done.err
    for option, says in (("--rate", "rate_hz of session 'a' was 20.0, now 5.0"), ("--sessions", "were a, now b")):
        refused = poco("train", *resume, option, "5" if option == "--rate" else "b")
        assert refused.code == 2
        assert says in refused.err
    shutil.rmtree(tmp_path / "moved")
    for command, hint in (("train", "give DATA"), ("eval", "give it (--data PATH)")):
        lost = poco(command, *(resume if command == "train" else resume[2:]))
        assert lost.code == 2
        assert f"{tmp_path / 'moved'}, which the run was trained on, is not there: {hint}" in lost.err


def test_sessions_of_one_name(poco: Callable, tmp_path: Path) -> None:
    one, two = tables(tmp_path / "one", "a"), tables(tmp_path / "two", "a")
    refused = poco("train", one, two, *TABLES, *SHORT)
    assert refused.code == 2
    assert f"in {one / 'a.csv'} and {two / 'a.csv'}" in refused.err
    seen = poco("inspect", one, two, *TABLES)
    assert seen.code == 0
    assert f"together: session names occur more than once: a ('a' in {one / 'a.csv'}" in seen.out
    (tmp_path / "dataset.toml").write_text('files = ["*/*.csv"]\n[sessions]\nname = "{folder}-{stem}"\n')
    seen = poco("inspect", one, two, *TABLES, "--json").json
    (line,) = seen["warnings"]  # there is one recording in both
    assert "session 'two-a' has the same activity as session 'one-a'" in line
    assert [path["sessions"][0]["session"] for path in seen["paths"]] == ["one-a", "two-a"]


@pytest.mark.parametrize("rate", ["-3", "0", "nan", "inf"])
def test_a_rate_that_is_none(poco: Callable, folder: Path, rate: str) -> None:
    refused = poco("inspect", folder, "--rate", rate)
    assert refused.code == 2
    assert f"rate_hz (--rate) must be above 0 and finite, got {rate}" in refused.err


def test_time_in_a_table(poco: Callable, tmp_path: Path) -> None:
    activity = simulate(1, 4, 300, seed=1)[0].activity
    lines = [",".join(map(str, row)) for row in np.vstack([np.arange(300) / 20, activity]).T]
    (tmp_path / "a.csv").write_text("\n".join(["time,n0,n1,n2,n3", *lines]))
    options = ["--orientation", "frames x units", "--header"]
    for command in ("inspect", "train"):
        refused = poco(command, tmp_path / "a.csv", *options)
        assert refused.code == 2
        assert "say --time-column 0" in refused.err
    seen = poco("inspect", tmp_path / "a.csv", *options, "--time-column", "0", "--json").json["sessions"][0]
    assert (seen["units"], seen["rate_hz"]) == (4, 20)


@pytest.mark.filterwarnings("default:session 'c' has 2.5 frames a second")
def test_what_another_recording_says_of_itself_goes_before_the_options_of_the_run(
    poco: Callable, run: Path, tmp_path: Path
) -> None:
    own = tables(tmp_path / "own", "c")
    described = '[activity]\norientation = "units x frames"\nrate_hz = 2.5\n'
    np.savetxt(own / "c.csv", np.loadtxt(own / "c.csv", delimiter=",", skiprows=1).T, delimiter=",")
    (own / "dataset.toml").write_text("neural = false\n" + described + "header = false\n")
    done = poco("adapt", run, own / "c.csv", "--no-header", "--out", tmp_path / "adapted", "--json")
    assert done.code == 0, done.err
    assert "session 'c' has 2.5 frames a second, the model learnt from 20" in done.err
    assert "warning: session 'c': not neural activity" in done.err
    done = poco("forecast", tmp_path / "adapted", own / "c.csv", "--out", tmp_path / "f.npz", "--json")
    assert (done.json["units"], done.json["rate_hz"]) == (6, 2.5)
    assert "not neural activity" in done.err
    given = ("--rate", "20", "--out", tmp_path / "other")
    done = poco("adapt", run, own / "c.csv", "--no-header", *given)
    assert done.code == 0, done.err
    assert "learnt from" not in done.err
    done = poco("forecast", tmp_path / "other", own / "c.csv", "--out", tmp_path / "g.npz", "--json")  # as adapted to
    assert done.json["rate_hz"] == 20
