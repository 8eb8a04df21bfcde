"""poco.run and poco.train: what is in a run folder, and what may become of it."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recordings import waves

import poco
from poco import Run, TrainConfig, train
from poco.data.recording import Recording
from poco.errors import BackendError, CheckpointError, ConfigError, DataError
from poco.nn.files import reading_options
from poco.training import Callback
from poco.training.folder import read_metrics

SIZES = poco.POCOConfig(
    context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8
)
SETTINGS = TrainConfig(steps=12, batch_size=8, val_every=4, log_every=3, device="cpu")


def recordings() -> list[Recording]:
    return [waves("a", frames=200, rate_hz=2.0), waves("b", units=3, frames=200, rate_hz=2.0)]


def trained(folder: Path | None, **more: object) -> Run:
    options = {"model_config": SIZES, "train_config": SETTINGS, "progress": False, **more}
    given = options.pop("recordings", None) or recordings()
    return train(given, out=folder, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    np.save(folder.parent / "a.npy", np.zeros(1))
    return trained(folder, source={"path": str(folder.parent / "a.npy"), "options": {"rate_hz": 2.0}})


def test_what_is_printed_is_one_short_line(run: Run) -> None:
    cut, first = run.split(recordings()), recordings()[0]
    adapted = poco.adapt(run, waves("c", frames=200, rate_hz=2.0), mode="zero-shot")
    for value, printed in (
        (first, "<Recording 'a': 5 units x 200 frames, 2 Hz>"),
        (dataclasses.replace(first, rate_hz=None, stretches=((0, 90), (95, 200))), "frames, no rate, 2 stretches>"),
        (cut, "2 sessions with 8 units: leak-free, context 12, horizon 4, windows 210 train, 50 val, 50 test>"),
        (cut.windows("val"), "<Windows: 50 windows of 2 sessions>"),
        (poco.forecast(run, first), "<Forecasts of 'a': 189 windows x 5 units x 4 steps, 2 Hz>"),
        (run, f"<Run in {run.folder}: published, leak-free, 2 sessions with 8 units, 1 seed>"),
        (adapted, "<Adapted to 'c': zero-shot, 0 values fitted, score "),
        (poco.embeddings(run)[0], "<SessionEmbeddings of 'a': 5 units, width 8>"),
    ):
        assert printed in repr(value)
        assert "\n" not in repr(value)


def test_the_errors_during_training(run: Run) -> None:
    found = run.training_curve
    assert found.train == [(m["step"], m["loss"]) for m in run.history if "loss" in m]
    assert found.validation == [(m["step"], m["val_mse"]) for m in run.history if "val_mse" in m]
    assert found.best_step == run.best_step
    absolute = {**run.config, "training": {**run.config["training"], "loss": "mae"}}
    assert dataclasses.replace(run, config=absolute).training_curve == dataclasses.replace(found, train=[])


def test_what_is_in_the_folder(run: Run) -> None:
    assert run.folder is not None
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.json", "metrics.jsonl", "model", "resume.safetensors", "log.txt"} <= names
    assert not [name for name in names if "part" in name]
    config = json.loads((run.folder / "config.json").read_text())
    assert config["protocol"] == "leak-free"
    assert config["recipe"] == "published"
    assert config["seed"] == 0
    assert config["model"]["width"] == 8
    assert config["training"]["steps"] == 12
    assert config["versions"]["torch"] == str(torch.__version__)
    assert config["source"]["options"] == {"rate_hz": 2.0}
    assert Path(config["source"]["path"]).is_absolute()
    session = config["sessions"][1]
    assert {k: session[k] for k in ("session", "units", "frames", "rate_hz")} == {
        "session": "b", "units": 3, "frames": 200, "rate_hz": 2.0,
    }  # fmt: skip
    metrics = read_metrics(run.folder / "metrics.jsonl")
    assert [m["step"] for m in metrics if "loss" in m] == [3, 6, 9, 12]
    assert [m["step"] for m in metrics if "val_mse" in m] == [4, 8, 12]
    log = (run.folder / "log.txt").read_text()
    assert "training from step 0 to 12" in log
    assert "done at step 12, best validation" in log


def test_a_run_its_model_and_folders_of_both_are_taken_alike(run: Run, tmp_path: Path) -> None:
    """By everything that needs a model."""
    folder, known, new = run.folder, run.recordings, waves("c", frames=200, rate_hz=2.0)
    assert folder is not None
    assert known is not None
    adapted = poco.adapt(run, new, mode="zero-shot")
    adapted.save(tmp_path / "adapted")
    assert run.folder is not None
    with pytest.raises(ConfigError, match="holds a run or a model: choose another folder"):
        adapted.save(run.folder)
    expected, vectors = poco.forecast(run.model, known[0], latest=True).values, poco.embeddings(run.model)[1].vectors
    for given in (run.model, run, folder, str(folder), folder / "model"):
        assert np.array_equal(poco.forecast(given, known[0], latest=True).values, expected)
        assert np.array_equal(poco.embeddings(given)[1].vectors, vectors)
        assert poco.evaluate(given, run.split(), baselines=()).score == poco.evaluate(run, baselines=()).score
        assert poco.adapt(given, new, mode="zero-shot").after == adapted.after
        with poco.Stream(given, "b") as stream:
            stream.swap(given)
            assert stream.units == 3
        if given is not run and isinstance(given, Path):
            assert [spec.name for spec in poco.load(given).sessions] == ["a", "b"]
        if not torch.cuda.is_available():
            with pytest.raises(BackendError, match="need a model on a CUDA device, this one is on cpu"):
                poco.InferenceGraph(given, "a")
    assert [spec.name for spec in poco.load(tmp_path / "adapted").sessions] == ["a", "b", "c"]
    assert poco.forecast(tmp_path / "adapted", new, latest=True).values.shape == (1, 5, 4)
    assert poco.Stream(tmp_path / "adapted", "c").units == 5


def test_what_holds_no_model(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    for name, says in (
        ("nothing", "no such run folder"),
        ("file", "is a file: give a run folder"),
        ("", "neither a"),
    ):
        for call in (poco.load, poco.embeddings, poco.evaluate, lambda place: poco.forecast(place, waves("a"))):
            with pytest.raises(CheckpointError, match=says) as caught:
                call(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)
    (tmp_path / "config.json").write_bytes((run.folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="has no model yet"):
        poco.load(tmp_path)
    with pytest.raises(ConfigError, match="a CUDA graph is recorded of a POCO, not of a model of kind Ensemble"):
        poco.InferenceGraph(poco.Ensemble([run.model]), "a")
    with pytest.raises(ConfigError, match=r"shows what a model was trained on: give runs.*not a POCO"):
        poco.report(run.model, tmp_path / "report")
    with pytest.raises(ConfigError, match="what is streamed is a model, a run or a folder of either, got Linear"):
        poco.Stream(torch.nn.Linear(1, 1))


def test_a_run_goes_on_as_it_was_told_before(tmp_path: Path, run: Run) -> None:
    """What is not given on resume is taken from the run, what is given is compared."""
    folder = tmp_path / "run"
    trained(folder, protocol="published", seeds=2)
    settings = (folder / "config.json").read_bytes()
    again = train(recordings(), out=folder, resume=True, progress=False)
    assert (folder / "config.json").read_bytes() == settings
    assert (again.protocol, again.config["seeds"], again.config["recipe"]) == ("published", 2, "published")
    longer = train(recordings(), out=folder, resume=True, progress=False, train_config={"steps": 14})
    assert longer.train_config == dataclasses.replace(SETTINGS, steps=14)
    for given, says in (
        ({"recipe": "grounded"}, "cannot resume the run in .*: recipe was published, now grounded"),
        ({"protocol": "leak-free"}, "protocol was published, now leak-free"),
        ({"seeds": 1}, "seeds was 2, now 1"),
        ({"model_config": {"context": 8}}, "context of the model was 12, now 8"),
        ({"train_config": {"learning_rate": 0.5}}, "learning_rate was 0.0003, now 0.5"),
    ):
        with pytest.raises(CheckpointError, match=f"{says}; go on with what it began with, or train anew"):
            train(recordings(), out=folder, resume=True, progress=False, **given)


def test_some_settings_by_name() -> None:
    sizes = SIZES.to_dict()
    run = train(recordings(), recipe="published", model_config=sizes, train_config={"steps": 2}, progress=False)
    assert run.model.config == SIZES
    assert run.train_config == TrainConfig(steps=2, batch_size=64, val_stride=1)
    with pytest.raises(ConfigError, match="segment_length or --segment-length is no option of the recipe 'grounded'"):
        train(recordings(), model_config={"segment_length": 8})
    with pytest.raises(ConfigError, match="no training setting 'lr': there are amsgrad, batch_size, "):
        train(recordings(), train_config={"lr": 8})
    with pytest.raises(ConfigError, match="no training setting 'learningrate': did you mean 'learning_rate'"):
        train(recordings(), train_config={"learningrate": 8})
    with pytest.raises(ConfigError, match=r"^contxt is no option of the recipe 'grounded': did you mean 'context'"):
        train(recordings(), model_config={"contxt": 5})
    with pytest.raises(ConfigError, match="train_config must be a TrainConfig, or settings by name, got int"):
        train(recordings(), train_config=400)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seeds": 2.5}, "seeds must be a whole number or none, got 2.5"),
        ({"seeds": "2"}, "seeds must be a whole number or none, got '2'"),
        ({"callbacks": [print]}, "callbacks must be objects of classes made of poco.training.Callback, got builtin"),
        (
            {"callbacks": [Callback]},
            "callbacks must be objects of classes made of poco.training.Callback, got Callback",
        ),
        ({"callbacks": Callback()}, "callbacks must be a list of poco.training.Callback, got Callback"),
        ({"baselines": ("rigde",)}, "there is no baseline 'rigde': choose from copy, mean"),
        ({"baselines": "ridge"}, "baselines must be a list of names, got 'ridge'"),
    ],
)
def test_what_cannot_be_is_said_before_training(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trained(None, **given)


def test_a_loaded_run_is_the_same(run: Run) -> None:
    assert run.folder is not None
    loaded = Run.load(run.folder)
    assert [spec.name for spec in loaded.model.sessions] == ["a", "b"]
    for ours, theirs in zip(loaded.model.state_dict().values(), run.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.history == list(run.history)
    assert loaded.train_config == SETTINGS
    cut = loaded.split(recordings())
    mean, std = loaded.model.normalisation("b")
    np.testing.assert_array_equal(np.asarray(mean), cut.mean[1])
    np.testing.assert_array_equal(np.asarray(std), cut.std[1])


def test_evaluation_is_kept_with_a_figure(run: Run) -> None:
    pytest.importorskip("matplotlib")
    assert run.folder is not None
    loaded = Run.load(run.folder)
    assert loaded.evaluation is None
    evaluation = loaded.evaluate(recordings(), baselines=("copy", "mean", "ridge"))
    assert Run.load(run.folder).evaluation == evaluation
    assert (run.folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (run.folder / "baselines" / "ridge.safetensors").exists()
    assert "evaluated on test" in (run.folder / "log.txt").read_text()


def test_a_run_is_scored_beside_what_training_was_told_to_compare_it_with() -> None:
    told = trained(None, baselines=("copy", "ridge"))
    assert set(told.evaluate().baselines) == {"copy", "ridge"}
    assert set(told.evaluate(baselines=("mean",)).baselines) == {"mean"}


@pytest.mark.filterwarnings("ignore:session 'a'")
def test_scores_of_forecasts_that_are_not_finite_are_kept_with_a_figure(run: Run) -> None:
    wrong = copy.deepcopy(run.model)
    assert isinstance(wrong, poco.POCO)
    with torch.no_grad():
        wrong.session_parameters("a")[0].fill_(float("nan"))
    found = dataclasses.replace(run, model=wrong).evaluate(recordings(), baselines=("copy",))
    assert [np.isnan(one.score) for one in found.sessions] == [True, False]
    assert np.isnan(run.evaluation.score)


def test_numbers_of_numpy_can_be_kept(run: Run, tmp_path: Path) -> None:
    adapted = poco.adapt(run, waves("c", frames=200, rate_hz=2.0), mode="zero-shot", frames=np.int64(100))  # type: ignore[arg-type]
    adapted.save(tmp_path)
    assert json.loads((tmp_path / "adaptation.json").read_text())["frames"] == 100
    evaluation = run.evaluate(recordings(), baselines=("copy",), stride=np.int64(1))
    assert run.evaluation == evaluation
    assert trained(tmp_path / "run", seeds=np.int64(2)).config == Run.load(tmp_path / "run").config


def test_other_scores_than_those_of_the_test_part_are_not_kept(run: Run) -> None:
    kept = run.evaluate(baselines=("copy",))
    for options in ({"part": "val"}, {"stride": 2}, {"precision": "bf16"}):
        assert run.evaluate(baselines=("copy",), **options).score != kept.score
        assert run.evaluation == kept
    assert run.evaluate(recordings()[:1], baselines=("copy",)).score != kept.score
    assert run.evaluation == kept


def test_a_run_that_is_given_more_steps_is_not_finished_and_has_no_scores_of_the_model_before(tmp_path: Path) -> None:
    class Stop(Callback):
        def log(self, record: object) -> None:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    kept = trained(folder).evaluate(recordings(), baselines=("copy",))
    with pytest.raises(KeyboardInterrupt):  # before there is another model
        trained(folder, resume=True, steps=24, callbacks=[Stop()])
    stopped = Run.load(folder)
    assert not stopped.finished
    assert stopped.evaluation == kept
    assert trained(folder, resume=True, steps=24).best_step == 24
    assert Run.load(folder).finished
    assert Run.load(folder).evaluation is None
    assert not (folder / "figure.png").exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_scores_of_an_unfinished_model_are_not_those_of_the_finished_one(seeds: int, tmp_path: Path) -> None:
    class Stop(Callback):
        stop = False

        def member(self, seed: int, number: int, of: int) -> None:
            self.stop = number == of

        def log(self, record: object) -> None:
            if self.stop or seeds == 1:
                raise KeyboardInterrupt

    folder, sizes = tmp_path / "run", {"context": 12, "horizon": 4, "width": 8}
    settings = {"steps": 4, "learning_rate": 5.0, "ema": None, "val_every": 1, "log_every": 2, "device": "cpu"}
    options = {"model_config": sizes, "train_config": settings}  # so fast that nothing is better than the start
    options |= {"seeds": seeds, "out": folder, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        train(recordings(), callbacks=[Stop()], **options)
    assert Run.load(folder).evaluate(recordings(), baselines=("copy",)) is not None
    finished = train(recordings(), resume=True, **options)
    assert finished.evaluation is None
    kept = finished.evaluate(recordings(), baselines=("copy",))
    assert train(recordings(), resume=True, **options).evaluation == kept  # which changes no model


def test_no_figure_without_matplotlib(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run.evaluate(baselines=())
    assert run.folder is not None
    assert "no figure: drawing a figure needs the package 'matplotlib'" in (run.folder / "log.txt").read_text()


def test_scores_come_even_where_they_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(
        RuntimeWarning, match="the scores, or their figure, could not be kept: cannot save .*: No space left on device"
    ):
        assert np.isfinite(run.evaluate(baselines=("copy",)).score)


def test_recordings_that_are_not_the_runs(run: Run) -> None:
    with pytest.raises(DataError, match="not trained on session 'z': its sessions are a, b"):
        run.split([waves("z")])
    with pytest.raises(DataError, match="session 'a' is not the recording the run was trained on"):
        run.split([waves("a", frames=201)])
    with pytest.raises(DataError, match="session 'a' has 10 frames a second, the model learnt it at 2"):
        run.split([waves("a", frames=200, rate_hz=10.0)])
    assert len(run.split([recordings()[1]]).recordings) == 1
    assert run.folder is not None
    with pytest.raises(DataError):  # the file named as the source holds no such recordings
        Run.load(run.folder).split()


def test_recordings_are_read_again(tmp_path: Path) -> None:
    for recording in recordings():
        np.save(tmp_path / f"{recording.session}.npy", recording.activity)
    source = {"path": str(tmp_path), "options": {"orientation": "units x frames", "rate_hz": 2.0}}
    read = poco.read(source["path"], **source["options"])  # type: ignore[arg-type]
    folder = tmp_path.parent / f"{tmp_path.name}-run"
    trained(folder, recordings=read[1:], source=source)
    cut = Run.load(folder).split()
    assert [recording.session for recording in cut.recordings] == [read[1].session]


def test_a_run_in_memory() -> None:
    run = trained(None)
    assert run.folder is None
    assert run.evaluation is None
    assert np.isfinite(run.evaluate(baselines=("copy",)).score)
    with pytest.raises(CheckpointError, match="kept in memory"):
        run.draw(run.evaluate(baselines=()), run.split())


def test_an_existing_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder)
    before = (folder / "resume.safetensors").read_bytes()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"there is a run in .* already: resume it .--resume., overwrite it"):
        trained(folder)
    assert (folder / "resume.safetensors").read_bytes() == before
    trained(folder, overwrite=True, train_config=dataclasses.replace(SETTINGS, seed=1))
    assert (folder / "resume.safetensors").read_bytes() != before
    assert (folder / "notes.txt").read_text() == "mine"


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold = "import sys; from pathlib import Path; from poco.training.folder import held\n"
    hold += "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ConfigError, match=r"a run is being trained in .*run: wait until it ends, or choose"):
                trained(folder, **options)
        assert not (folder / "config.json").exists()
    finally:
        other.kill()
        other.communicate()
    trained(folder)  # what was killed holds nothing
    trained(folder, resume=True)
    trained(folder, overwrite=True)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ConfigError, match="is not empty and not a run"):
        trained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the run folder"):
        trained(tmp_path / "file" / "run")


def kill_at(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Ends the process, as far as the code can tell, where ``what`` is called."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(what, die)


@pytest.mark.parametrize("again", [{"resume": True}, {"overwrite": True}, {}])
def test_killed_while_the_first_settings_were_written(tmp_path: Path, again: dict[str, bool]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.json.123.part").write_text('{"for')
    trained(folder, **again)
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize("what", ["poco.training.job.shutil.rmtree", "poco.training.job.write_json"])
@pytest.mark.parametrize("again", [{"resume": True}, {"overwrite": True}])
def test_killed_while_a_run_was_being_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, again: dict[str, bool]
) -> None:
    folder = tmp_path / "run"
    trained(folder)
    (folder / "model" / ".model.safetensors.9.part").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        kill_at(patch, what)
        with pytest.raises(KeyboardInterrupt):
            trained(folder, overwrite=True)
    trained(folder, **again)
    assert Run.load(folder).history
    assert not list(folder.rglob(".*.part"))


def test_what_is_no_recording_is_refused_in_one_line(run: Run) -> None:
    for wrong, name in (("file.npy", "str"), ([1], "int"), (np.zeros((2, 3)), "ndarray"), (["a.npy"], "str")):
        with pytest.raises(DataError, match=f"recordings are wanted, not {name}.*: read them with poco.read"):
            poco.train(wrong)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="recordings are wanted"):
            run.split(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one recording is wanted, not list"):
        poco.adapt(run.model, recordings())  # type: ignore[arg-type]


def test_one_recording_is_as_good_as_a_list_of_one() -> None:
    one = trained(None, recordings=recordings()[0])
    assert [spec.name for spec in one.model.sessions] == ["a"]
    assert len(one.split(recordings()[0]).recordings) == 1


def test_steps_alone_are_given_in_a_word() -> None:
    run = trained(None, steps=2)
    assert run.train_config == dataclasses.replace(SETTINGS, steps=2)
    assert max(record["step"] for record in run.history) == 2


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"protocol": "published"}, "protocol was leak-free, now published"),
        ({"model_config": dataclasses.replace(SIZES, width=16)}, "width of the model was 8, now 16"),
        ({"train_config": dataclasses.replace(SETTINGS, batch_size=9)}, "batch_size was 8, now 9"),
        ({"recordings": [waves("a", frames=200)]}, "the sessions were a, b, now a"),
        (
            {"recordings": [waves("a", frames=200, seed=5), waves("b", units=3, frames=200)]},
            "the recording of session 'a' has changed",
        ),
        (
            {"recordings": [recordings()[0], dataclasses.replace(recordings()[1], dataset="x", rate_hz=2.1)]},
            r"dataset of session 'b' was default, now x; rate_hz of session 'b' was 2\.0, now 2\.1",
        ),
    ],
)
def test_resuming_with_something_else_names_the_difference(run: Run, change: dict[str, object], names: str) -> None:
    assert run.folder is not None
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(
        CheckpointError, match=f"cannot resume the run in .*: {names}; go on with what it began"
    ) as caught:
        trained(run.folder, resume=True, **change)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == before


def test_resume_starts_a_run_where_there_is_none_and_goes_on_with_more_steps(tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    longer = dataclasses.replace(SETTINGS, steps=24)
    trained(folder, resume=True)
    trained(folder, resume=True, train_config=longer)
    trained(whole, train_config=longer)
    ours, theirs = Run.load(folder), Run.load(whole)
    assert ours.train_config.steps == 24
    for a, b in zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_later_metrics_are_cut_off_on_resume(tmp_path: Path) -> None:
    class Stop(Callback):
        def log(self, record: object) -> None:
            if record["step"] == 9:  # type: ignore[index]
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(folder, callbacks=[Stop()])
    path = folder / "metrics.jsonl"
    assert read_metrics(path)[-1]["step"] == 9  # the checkpoint is of step 8
    with open(path, "a") as file:
        file.write('{"step": 10, "lo')  # a line cut short
    trained(folder, resume=True)
    assert [m["step"] for m in read_metrics(path)] == [3, 4, 6, 8, 9, 12, 12]
    assert len(path.read_text().splitlines()) == 7


def test_what_is_validated_before_the_first_step_is_recorded_once(tmp_path: Path) -> None:
    class Stop(Callback):
        def log(self, record: object) -> None:
            raise KeyboardInterrupt

    settings = dataclasses.replace(SETTINGS, val_first=True)
    with pytest.raises(KeyboardInterrupt):  # before the first checkpoint
        trained(tmp_path / "run", train_config=settings, callbacks=[Stop()])
    resumed = trained(tmp_path / "run", train_config=settings, resume=True)
    assert [m["step"] for m in Run.load(tmp_path / "run").history] == [m["step"] for m in resumed.history]


def test_metrics_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": \xff\xfe}\n{"step": 2, "loss": 1.0}\n')
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_a_resumed_run_still_says_how_its_recordings_were_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder, source={"path": "x", "options": {"key": "dff"}})
    resumed = trained(folder, resume=True, train_config=dataclasses.replace(SETTINGS, steps=16))
    assert resumed.source == Run.load(folder).source == (str(Path("x").resolve()), {"key": "dff"})
    assert reading_options(Run.load(folder).model) == {"key": "dff"}
    resumed.recordings = None
    with pytest.raises(DataError, match="x"):
        resumed.split()


def test_a_recording_that_was_changed_is_not_said_to_be_read_again(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", waves(frames=200).activity)
    (read,) = poco.read(tmp_path / "a.npy", orientation="units x frames", rate_hz=2.0)
    changes = {"session": "b", "rate_hz": 3.0, "stretches": ((0, 190),), "activity": 2 * read.activity}
    assert trained(None, recordings=[read]).source[0] == str((tmp_path / "a.npy").resolve())
    for name, value in changes.items():
        changed = dataclasses.replace(read, **{name: value})
        assert trained(None, recordings=[changed]).source == (None, {})


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is this a run folder"):
        Run.load(tmp_path)
    known = {"format": 1, "recipe": "grounded", "protocol": "leak-free", "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps({**known, "model": {}, "training": {}, "sessions": [3]}))
    with pytest.raises(CheckpointError, match="'sessions' is not as it was written"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**known, "model": {}, "training": 7, "sessions": []}))
    with pytest.raises(CheckpointError, match="'training' is not as it was written"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 7}')
    with pytest.raises(CheckpointError, match="format 7, this poco reads format 1"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="'recipe' is missing"):
        Run.load(tmp_path)


def test_a_run_stopped_before_its_first_validation(tmp_path: Path, run: Run) -> None:
    assert run.folder is not None
    (tmp_path / "config.json").write_bytes((run.folder / "config.json").read_bytes())
    for _ in range(2):
        with pytest.raises(CheckpointError, match="has no model yet: it stopped before its first validation"):
            Run.load(tmp_path)
        (tmp_path / "model").mkdir(exist_ok=True)  # as one that was stopped while it saved it


def test_a_damaged_checkpoint_is_refused_on_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained(folder)
    path = folder / "resume.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        trained(folder, resume=True)
    path.unlink()
    before = (folder / "model" / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"is finished, and resume\.safetensors, which it would go on from, is"):
        trained(folder, resume=True)
    assert (folder / "model" / "model.safetensors").read_bytes() == before


def test_unit_types_come_from_a_label(tmp_path: Path) -> None:
    sizes = dataclasses.replace(SIZES, unit_type_embedding=True)
    labels = {"region": ("x", "y", "x", "y", "z"), "side": ("l",) * 5}
    recording = waves("a", frames=200, labels=labels)
    run = trained(tmp_path / "run", recordings=[recording], model_config=sizes, unit_types="region")
    again = train([recording], out=tmp_path / "run", resume=True, progress=False)
    assert again.model.metadata["training"]["unit_types"] == "region"
    with pytest.raises(CheckpointError, match="unit_types was region, now side"):
        train([recording], out=tmp_path / "run", resume=True, progress=False, unit_types="side")
    assert run.model.sessions[0].unit_types == labels["region"]
    new = waves("b", units=3, frames=200, labels={"region": ("z", "new", "x"), "side": ("l",) * 3})
    adapted = poco.adapt(run.model, new, steps=2, batch_size=4)  # takes the label that the run took
    assert adapted.model.sessions[1].unit_types == ("z", "new", "x")
    adapted = poco.adapt(run.model, new, steps=2, batch_size=4, unit_types="side")
    assert adapted.model.sessions[1].unit_types == ("l",) * 3
    with pytest.raises(DataError, match="session 'b' has no label 'region' of its units; it has: none"):
        poco.adapt(run.model, waves("b", frames=200))
    with pytest.raises(ConfigError, match="which label to embed; session 'a' has: region, side"):
        trained(None, recordings=[recording], model_config=sizes)
    with pytest.raises(DataError, match="no label 'class'"):
        trained(None, recordings=[recording], model_config=sizes, unit_types="class")
    with pytest.raises(ConfigError, match=r"the model embeds no types of units: leave out unit_types \('region'\)"):
        trained(None, recordings=[recording], unit_types="region")


def test_what_was_trained_in_python_says_where_its_recordings_are(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    for place, recording in zip(places, recordings(), strict=True):
        place.mkdir()
        np.save(place / f"{recording.session}.npy", recording.activity)
        (place / "notes.txt").write_text("no recording")
    options = {"orientation": "units x frames", "rate_hz": 2.0}
    read = poco.read(places, **options, without=["notes"])
    done = trained(tmp_path / "run", recordings=read)
    assert done.source == ([str(place.resolve()) for place in places], options)
    again = Run.load(tmp_path / "run")
    assert [one.session for one in again.read()] == ["a", "b"]
    assert np.isfinite(again.evaluate(baselines=("copy",)).score)
    one = trained(tmp_path / "one-run", recordings=poco.read(places[0] / "a.npy", **options))
    assert one.source == (str((places[0] / "a.npy").resolve()), options)
    assert [r.session for r in Run.load(tmp_path / "one-run").read(places[0])] == ["a"]


def test_recordings_that_are_not_as_they_were_read(tmp_path: Path) -> None:
    for recording in recordings():
        np.save(tmp_path / f"{recording.session}.npy", recording.activity)
    options = {"orientation": "units x frames"}
    first, second = poco.read(tmp_path, **options, rate_hz=2.0)
    half = dataclasses.replace(first, activity=first.activity / 2)
    other = poco.read(tmp_path / "b.npy", **options, rate_hz=1.9)[0]
    for given in ([half, second], [first, other], [first, recordings()[1]]):
        folder = tmp_path / "run"
        assert trained(folder, recordings=given, overwrite=True).source == (None, {})
        again = Run.load(folder)
        with pytest.raises(DataError, match=r"give them \(recordings=\.\.\., or on the command line --data PATH\)"):
            again.evaluate(baselines=("copy",))
    assert np.isfinite(again.evaluate(given, baselines=("copy",)).score)
    assert again.read(tmp_path, **options, rate_hz=2.0)[0].session == "a"
