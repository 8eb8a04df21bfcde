"""poco.studies: every study runs, resumes, and is shown."""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from poco import models, studies
from poco.baselines import Copy
from poco.baselines.fitted import fit_baseline
from poco.data.packed import PackedBatch
from poco.data.read import read
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.data.splits import Split, same_targets, shorten, split
from poco.errors import CheckpointError, ConfigError, DataError
from poco.intervals import mean_text
from poco.nn import POCOConfig
from poco.scoring import score_forecasters
from poco.studies.adaptation import Others
from poco.training import DivergedError, recipe, train
from poco.training.trainer import Trainer

RECORDINGS = simulate(2, units=4, frames=400)
TWO_DATA_SETS = [
    *RECORDINGS,
    *(
        dataclasses.replace(r, session=f"other-{r.session}", subject=f"other-{r.subject}", dataset="other")
        for r in simulate(2, units=3, frames=400, seed=5)
    ),
]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> list[Recording]:
    """Twelve units of two worms and of two fish, as they were recorded."""
    found = []
    for place in ("celegans_dag2023", "zebrafish_units_chen2018"):
        for r in read(shared_data / place)[:2]:
            labels = {name: values[:12] for name, values in r.labels.items()}
            found.append(
                dataclasses.replace(
                    r, activity=r.activity[:12], unit_ids=r.unit_ids[:12], labels=labels, coordinates=None, channels={}
                )
            )
    return found


#: Studies of several data sets, of animals and of labels: they run on real recordings, the others on simulated ones.
ON_REAL = ("multi-dataset", "multi-species", "embedding-modes", "zero-shot")


@pytest.mark.parametrize("name", studies.names())
@pytest.mark.filterwarnings("ignore:session .* frames a second:RuntimeWarning")
def test_every_study_runs_at_reduced_size(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    study = studies.load(name)
    # the big ones of the study's own sizes are tested with their definitions
    cheap = tuple(f for f in study.forecasters if f not in ("ar-transformer", "mlp-large", "uico-large"))
    study = dataclasses.replace(study, forecasters=cheap)
    of_its_own = {
        "zapbench": simulate(2, units=4, frames=900),
        "pretraining-source": TWO_DATA_SETS,
        "simulation": [],
        "simulation-single": [],
    }
    recordings = of_its_own.get(name, RECORDINGS) if name not in ON_REAL else request.getfixturevalue("real")
    cells = studies.run(study, tmp_path, recordings, reduced=True)
    # two animals; recordings of 400 frames, 320 of which are learnt from, have a single one of the lengths
    values = {"animal": 2, "frames": 1, "model": 2}.get(study.vary, min(2, len(study.values)))
    frames = sum(n is None or n <= 320 for n in study.frames)
    assert len(cells) == sum(len(study.of(f)) for f in cheap) * values * frames * len(study.sources)
    assert studies.table(cells).count("\n") > 1
    assert all(math.isfinite(cell["score"]) for cell in cells)


def test_a_study_goes_on_where_it_was(tmp_path: Path) -> None:
    study = studies.Study("one", "", ("nlinear",))
    first = studies.run(study, tmp_path, RECORDINGS, reduced=True)
    lines: list[str] = []
    assert studies.run(study, tmp_path, RECORDINGS, reduced=True, report=lines.append) == first
    assert lines == []
    with pytest.raises(ConfigError, match=r"one--None--multi--nlinear--0\.json was made with steps 3, now 4"):
        studies.run(study, tmp_path, RECORDINGS, reduced=True, steps=4)
    others = [dataclasses.replace(r, activity=r.activity[:, ::-1]) for r in RECORDINGS]
    for some in (others, RECORDINGS[::-1], RECORDINGS[:1]):
        with pytest.raises(ConfigError, match=r"nlinear--0\.json was made of other recordings: take another folder"):
            studies.run(study, tmp_path, some, reduced=True)


def test_cells_made_of_something_else_are_refused(tmp_path: Path) -> None:
    few: dict[str, Any] = {"seeds": 1, "steps": 1, "batch": 4}
    sizes = {"width": 8, "heads": 2, "head_width": 8, "film_width": 8}
    study = studies.Study("one", "", ("poco",), vary="model", options=({"name": "a", **sizes},))
    cells = studies.run(study, tmp_path, RECORDINGS, **few)
    other_option = dataclasses.replace(study, options=({"name": "a", **sizes, "film_width": 16},))
    with pytest.raises(
        ConfigError, match=r"one--a--multi--poco--0\.json was made with option {.*'film_width': 16}: take"
    ):
        studies.run(other_option, tmp_path, RECORDINGS, **few)
    regrouped = [dataclasses.replace(r, dataset=r.session) for r in RECORDINGS]
    with pytest.raises(
        ConfigError, match="was made of recordings that were grouped into other data sets: take another"
    ):
        studies.run(study, tmp_path, regrouped, **few)
    with_labels = [dataclasses.replace(r, labels={"region": ("a", "b", "a", "b")}) for r in RECORDINGS]
    assert studies.run(study, tmp_path, with_labels, **few) == cells  # they are not embedded
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"poco--0\.json: .*: delete this file, and the same command makes it"):
        studies.run(study, tmp_path, RECORDINGS, **few)


def test_cells_of_other_labels_are_refused(tmp_path: Path) -> None:
    few: dict[str, Any] = {"seeds": 1, "steps": 1, "batch": 4}
    study = studies.load("embedding-modes")
    study = dataclasses.replace(study, options=tuple(study.option(name) for name in ("none", "session and region")))
    labels = {"region": ("a", "b", "a", "b"), "kind": ("a", "b", "a", "b")}
    labelled = [dataclasses.replace(r, labels=labels) for r in RECORDINGS]
    for more in ({}, {"reduced": True}):  # which leaves out the values that embed labels
        with pytest.raises(ConfigError, match=r"which label to embed; .* region, kind \(label=LABEL, --label LABEL\)"):
            studies.run(studies.load("embedding-modes"), tmp_path / "none", labelled, **few, **more)
    assert not list((tmp_path / "none").glob("*.json"))  # before anything is trained
    cells = studies.run(study, tmp_path, labelled, label="region", **few)
    assert [cell["label"] for cell in cells] == [None, "region"]
    with pytest.raises(ConfigError, match=r"region--multi--poco--0\.json was made with label region, now kind"):
        studies.run(study, tmp_path, labelled, label="kind", **few)
    others = [dataclasses.replace(r, labels={"region": ("a", "b", "b", "b")}) for r in RECORDINGS]
    with pytest.raises(ConfigError, match=r"region--.* was made with other labels of the units: take another"):
        studies.run(study, tmp_path, others, **few)


def test_values_that_embed_labels_are_left_out_where_there_are_none(tmp_path: Path) -> None:
    lines: list[str] = []
    study = dataclasses.replace(studies.load("embedding-modes"), forecasters=("poco",))
    cells = studies.run(study, tmp_path, RECORDINGS, seeds=1, steps=1, batch=4, report=lines.append)
    assert lines[0] == "embedding-modes, session and region: left out, the units have no label that all sessions know"
    assert {cell["value"] for cell in cells} == {"none", "session", "none, latents too", "session, latents too"}


def test_scores_of_numbers_of_sessions_are_of_the_same_sessions(tmp_path: Path) -> None:
    recordings = simulate(4, units=4, frames=800)
    study = studies.Study("some", "", ("ridge",), vary="sessions", values=(2, 4, 5))
    lines: list[str] = []
    cells = studies.run(study, tmp_path, recordings, seeds=1, report=lines.append)
    assert lines[:2] == [
        "some, 5 sessions: left out, there are 4",
        "some: scores are of animal-1, animal-2, which all values learn from",
    ]
    assert [cell["value"] for cell in cells] == [2, 4]
    for cell in cells:
        assert len(cell["score_by_session"]) == cell["value"]
        assert cell["score"] == np.mean([cell["score_by_session"][name] for name in ("animal-1", "animal-2")])
        low, high = cell["interval"]
        assert low < cell["score"] < high
        assert 2 <= cell["blocks"] <= 192 / 64  # two sessions of 96 windows
    model = fit_baseline("ridge", split(recordings, protocol="published"))
    of_two = score_forecasters({"": model}, split(recordings[:2], protocol="published"))[""]
    assert cells[1]["score_per_step"] == pytest.approx(of_two.score_per_step)
    with pytest.raises(ConfigError, match="was made with scored_sessions 2, now 1"):
        studies.run(dataclasses.replace(study, values=(1, 2)), tmp_path, recordings, seeds=1)


def test_a_study_learns_from_so_many_frames(tmp_path: Path) -> None:
    study = studies.Study("some", "", ("ridge",), vary="sessions", values=(1, 2), frames=(200,))
    cells = studies.run(study, tmp_path, RECORDINGS, seeds=1)
    for cell in cells:
        cut = shorten(split(RECORDINGS[: cell["value"]], protocol="published"), 200)
        scores = score_forecasters({"": fit_baseline("ridge", cut)}, cut)[""]
        assert cell["score_by_session"] == {one.session: one.score for one in scores.sessions}
    simulated = dataclasses.replace(study, vary="", values=(None,), simulate={"animals": 2, "units": 4, "frames": 400})
    assert len(studies.run(simulated, tmp_path / "simulated", [], seeds=1)[0]["score_by_session"]) == 2
    with pytest.raises(ConfigError, match=r"was made with frames 200, now 250"):
        studies.run(dataclasses.replace(study, frames=(250,)), tmp_path, RECORDINGS, seeds=1)
    for of, recordings in ((study, RECORDINGS), (simulated, [])):
        with pytest.raises(ConfigError, match="needs 400 frames to learn from, session 'animal-1' has 320"):
            studies.run(dataclasses.replace(of, frames=(400,)), tmp_path, recordings, seeds=1)
    lengths = dataclasses.replace(simulated, vary="simulate.frames", values=(400, 800))
    assert [cell["value"] for cell in studies.run(lengths, tmp_path / "lengths", [], seeds=1)] == [400, 800]
    reduced = dataclasses.replace(simulated, frames=(4000,), simulate={"frames": 8000})
    assert studies.run(reduced, tmp_path / "reduced", [], reduced=True)[0]["frames"] == 200


def test_scores_of_contexts_are_of_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero(Copy):
        def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
            return super().forward_packed(batch) * 0

    monkeypatch.setattr("poco.studies.make.fit_baseline", lambda _, data, **__: Zero(data.context, data.horizon))
    study = dataclasses.replace(studies.load("context"), forecasters=("nlinear",))
    cells = studies.run(study, tmp_path, RECORDINGS, seeds=1, steps=1)
    assert [cell["value"] for cell in cells] == [1, 3, 12, 24, 48]
    assert len({cell["score"] for cell in cells}) == 1
    rows = studies.table(cells).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["1", "3", "12", "24", "48"]
    with pytest.raises(ConfigError, match="was made with longest_context 48, now 24"):
        studies.run(dataclasses.replace(study, values=(12, 24)), tmp_path, RECORDINGS, seeds=1, steps=1)


def test_any_context_is_cut_into_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(Trainer):
        def __init__(self, cut: Split, sizes: POCOConfig, **options: Any) -> None:
            seen.append((sizes.context, sizes.segment_length))
            super().__init__(cut, sizes, **options)

    monkeypatch.setattr("poco.studies.make.Trainer", Seen)
    values = (1, 2, 3, 7, 10, 12, 24, 48)
    study = studies.Study("some", "", ("poco",), vary="context", values=values)
    studies.run(study, tmp_path, RECORDINGS, seeds=1, steps=1, batch=2)
    assert seen == list(zip(values, (1, 1, 1, 1, 2, 4, 8, 16), strict=True))


def test_names_of_any_kind_are_those_of_files(tmp_path: Path) -> None:
    subjects = ("lab/animal-1", "a--b", "-")
    some = [dataclasses.replace(r, subject=s) for r, s in zip(simulate(3, 4, 400), subjects, strict=True)]
    study = dataclasses.replace(studies.load("adaptation"), forecasters=("poco",), training=("zero-shot",))
    cells = studies.run(study, tmp_path, some, seeds=1, steps=1, reduced=True)
    assert {cell["value"] for cell in cells} == set(subjects[:2])
    assert studies.cells(tmp_path) == cells
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adaptation--a%2D%2Db--zero-shot--poco--0.json",
        "adaptation--lab%2Fanimal-1--zero-shot--poco--0.json",
        "models",
    ]
    assert studies.run(study, tmp_path, some, seeds=1, steps=1, reduced=True, report=pytest.fail) == cells


def test_models_of_the_other_animals_are_those_of_these_settings(tmp_path: Path) -> None:
    study = dataclasses.replace(
        studies.load("adaptation"), forecasters=("poco", "nlinear"), training=("zero-shot",), base_steps=2
    )

    def run(study: studies.Study, recordings: list[Recording] = RECORDINGS, **options: str) -> list[str]:
        lines: list[str] = []
        for file in tmp_path.glob("*.json"):
            file.unlink()
        studies.run(study, tmp_path, recordings, seeds=1, steps=1, report=lines.append, **options)
        return [line for line in lines if line.endswith(": trained")]

    models_of = [f"without-animal-{animal}-0{name}: trained" for animal in (1, 2) for name in ("", "-nlinear")]
    assert run(study) == models_of
    assert run(study) == []
    with pytest.raises(ConfigError, match=r"without-animal-1-0 was made with base_steps 2, now 3: take another folder"):
        run(dataclasses.replace(study, base_steps=3))
    with pytest.raises(ConfigError, match="was made with protocol published, now leak-free"):
        run(study, protocol="leak-free")
    others = [RECORDINGS[0], dataclasses.replace(RECORDINGS[1], activity=RECORDINGS[1].activity[:, ::-1])]
    with pytest.raises(ConfigError, match="without-animal-1-0 was made of other recordings"):
        run(study, others)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["context", "zapbench"])
def test_scores_that_are_not_finite_end_no_study(
    name: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blown(Copy):
        def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
            return super().forward_packed(batch) + value

    def blown(forecaster: str, data: Split, **options: object) -> Copy:
        return Blown(data.context, data.horizon)

    monkeypatch.setattr("poco.studies.make.fit_baseline", blown)
    monkeypatch.setattr("poco.studies.zapbench.fit_baseline", blown)
    study = dataclasses.replace(studies.load(name), forecasters=("nlinear",))
    cells = studies.run(study, tmp_path, simulate(2, 4, 900), reduced=True)
    expected = -value if name == "context" else value
    measure = "mae_per_step" if name == "zapbench" else "score_per_step"
    assert [str(cell[measure][0]) for cell in cells] == [str(expected)] * 2
    assert repr(studies.cells(tmp_path)) == repr(cells)
    assert f" | {expected} | " in studies.table(cells)
    studies.write_csv(cells, tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open() as file:
        assert [row["score"] for row in csv.DictReader(file)] == [str(-value)] * 2
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    studies.plot(cells, tmp_path / "figure.png")
    studies.plot(cells, tmp_path / "steps.png", per_step=True)


def test_a_cell_that_diverges_is_named(tmp_path: Path) -> None:
    study = studies.Study("some", "", ("poco",), vary="training.learning_rate", values=(1e12,))
    with pytest.raises(
        DivergedError, match=r"^some--1000000000000\.0--multi--poco--0: the validation error is not fin"
    ):
        studies.run(study, tmp_path, RECORDINGS, seeds=1, steps=20, batch=4)


@pytest.mark.parametrize("processes", [1, 2])
def test_all_other_cells_are_made_when_some_diverge(processes: int, tmp_path: Path) -> None:
    values = (1e12, 1e-3, 1e13)
    study = studies.Study("some", "", ("poco",), vary="training.learning_rate", values=values)
    lines: list[str] = []
    with pytest.raises(
        DivergedError, match=r"^2 cells could not be made: some--1000000000000\.0--.*; some--10000000000000\.0"
    ):
        studies.run(study, tmp_path, RECORDINGS, seeds=1, steps=20, batch=4, processes=processes, report=lines.append)
    assert [cell["value"] for cell in studies.cells(tmp_path)] == [1e-3]
    assert len(lines) == 3


def test_cells_without_the_model_they_begin_with_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(others: Others, folder: Path) -> None:
        if others.recordings[0].subject == "animal-1":
            raise DivergedError("no")
        of_others(others, folder)

    of_others = Others.train
    monkeypatch.setattr(Others, "train", diverge)
    study = studies.Study("some", "", ("nlinear",), ("full", "scratch"), vary="animal", base_steps=1)
    with pytest.raises(DivergedError, match=r"^without-animal-2-0-nlinear: no$"):
        studies.run(study, tmp_path, RECORDINGS, seeds=1, steps=1)
    assert [cell["value"] for cell in studies.cells(tmp_path)] == ["animal-1"] * 2


def test_recordings_that_are_too_short(tmp_path: Path) -> None:
    short = simulate(2, units=4, frames=400)
    for name in ("recording-length", "adaptation-length"):
        study, field = studies.load(name), "values" if name == "recording-length" else "frames"
        message = f"'{name}' needs 512 frames to learn from, session 'animal-1' has 320: give more"
        with pytest.raises(ConfigError, match=message):
            studies.run(dataclasses.replace(study, **{field: (1024, 512)}), tmp_path, short, seeds=1)
        with pytest.raises(ConfigError, match="20 frames hold no window of 64"):
            studies.run(dataclasses.replace(study, **{field: (20, 128)}), tmp_path, short, seeds=1)
        with pytest.raises(DataError, match="200 frames leave no window"):
            studies.run(study, tmp_path, simulate(2, units=4, frames=200), seeds=1)
    shorter = [*short, *simulate(3, units=4, frames=200)[2:]]
    animal = studies.Study("some", "", ("poco",), ("zero-shot",), vary="animal", base_steps=1)
    of_single = studies.Study("some", "", ("nlinear",), ("single",))
    sessions = studies.Study("some", "", ("ridge",), vary="sessions", values=(1, 3))
    for study in (of_single, sessions, animal):
        with pytest.raises(DataError, match="session 'animal-3': 200 frames leave no window"):
            studies.run(study, tmp_path, shorter, seeds=1, steps=1)
    assert not list(tmp_path.iterdir())  # before anything is trained
    study = dataclasses.replace(sessions, values=(1, 2))
    assert len(studies.run(study, tmp_path, shorter, seeds=1, steps=1)) == 2
    study = studies.Study("some", "", ("ridge",), vary="sessions", values=(5, 3))
    with pytest.raises(ConfigError, match="'some' needs 3 sessions, there are 2: give more"):
        studies.run(study, tmp_path, short, seeds=1)


def test_what_cells_cannot_have_is_found_before_any_is_made(tmp_path: Path) -> None:
    small = {"animals": 1, "units": 4, "frames": 400}
    studies_of_frames = (
        studies.Study("some", "", ("copy",), simulate={**small, "frames": 100}),
        studies.Study("some", "", ("copy",), simulate=small, vary="simulate.frames", values=(400, 100)),
    )
    for study in studies_of_frames:
        with pytest.raises(DataError, match="100 frames leave no window"):
            studies.run(study, tmp_path, seeds=1, steps=1)
    of_devices = studies.Study("some", "", ("nlinear",), vary="training.device", values=("cpu", "cuda:99"))
    with pytest.raises(ConfigError, match="device 'cuda:99' was asked for, but torch sees"):
        studies.run(of_devices, tmp_path, RECORDINGS, seeds=1, steps=1)
    assert not list(tmp_path.iterdir())


def test_single_training_is_the_mean_over_models_of_each_session(tmp_path: Path) -> None:
    study = studies.Study("one", "", ("ridge",), ("single",))
    both = studies.run(study, tmp_path / "both", RECORDINGS, reduced=True)[0]["score"]
    each = [studies.run(study, tmp_path / r.session, [r], reduced=True)[0]["score"] for r in RECORDINGS]
    assert both == pytest.approx(np.mean(each))


def test_an_animal_is_left_out_and_adapted_to(tmp_path: Path) -> None:
    study = dataclasses.replace(studies.load("adaptation"), forecasters=("poco", "uico", "nlinear"))
    cells = studies.run(study, tmp_path, RECORDINGS, reduced=True, steps=40, processes=2)
    every = {(cell["forecaster"], cell["value"], cell["training"]): cell["curves"][0] for cell in cells}
    by = {(value, mode): curve for (forecaster, value, mode), curve in every.items() if forecaster == "poco"}
    known_animals = ("animal-1", "animal-2")
    for animal in known_animals:
        known = models.load(tmp_path / "models" / f"without-{animal}-0")
        assert [spec.name for spec in known.sessions] == [n for n in known_animals if n != animal]
        start = by[animal, "zero-shot"]["after"]
        for mode in study.training:
            curve = by[animal, mode]
            assert curve["session"] == animal
            assert [step for step, *_ in curve["history"]] == ([0] if mode == "zero-shot" else [0, 20, 40])
            assert (curve["history"][0][2] == start) == (mode != "scratch")
        assert (
            by[animal, "embeddings"]["parameters"] < by[animal, "mlp"]["parameters"] < by[animal, "full"]["parameters"]
        )
    for name in ("uico", "nlinear"):
        own = {mode: every[name, "animal-1", mode] for mode in study.of(name)}
        assert list(own) == ["zero-shot", *(["embeddings"] if name == "uico" else []), "full", "scratch"]
        same = own["zero-shot"]["after"]
        assert all((curve["history"][0][2] == same) == (mode != "scratch") for mode, curve in own.items())
        assert all(curve["history"][-1][0] == 40 for mode, curve in own.items() if mode != "zero-shot")
    units, width = 4, 128
    assert every["uico", "animal-1", "embeddings"]["parameters"] == units * width
    assert every["nlinear", "animal-1", "full"]["parameters"] == 48 * 16 + 16
    rows = {tuple(row.split(" | ")[1:3]): row.split(" | ") for row in studies.table(cells).splitlines()[2:]}
    assert list(rows)[:1] == [("poco", "zero-shot")]
    assert ("uico", "embeddings") in rows
    gains = [by[animal, "embeddings"]["after"] - by[animal, "zero-shot"]["after"] for animal in known_animals]
    assert rows["poco", "embeddings"][4].startswith(f"{np.mean(gains):.3f} ±")
    assert rows["poco", "embeddings"][-2:] == ["2", "1 |"]
    if importlib.util.find_spec("matplotlib"):
        studies.plot(cells, tmp_path / "figure.png")
    with pytest.raises(ConfigError, match="needs recordings of two"):
        studies.run(study, tmp_path, RECORDINGS[:1], reduced=True)


def test_models_of_one_data_set_the_other_and_both(tmp_path: Path) -> None:
    study = dataclasses.replace(studies.load("pretraining-source"), training=("zero-shot", "embeddings"))
    cells = studies.run(study, tmp_path, TWO_DATA_SETS, reduced=True)
    learnt = {
        source: [s.name for s in models.load(tmp_path / "models" / f"without-animal-1-0-{source}").sessions]
        for source in study.sources
    }
    assert learnt == {
        "same": ["animal-2"],
        "other": ["other-animal-1", "other-animal-2"],
        "both": ["animal-2", "other-animal-1", "other-animal-2"],
    }
    table = studies.table(cells).splitlines()
    assert table[0].startswith("| frames | learnt from | forecaster | mode | kept | gain |")
    assert [row.split(" | ")[1:4:2] for row in table[2:]] == [[s, m] for s in study.sources for m in study.training]
    of_same = [c["score"] for c in cells if (c["source"], c["training"]) == ("same", "embeddings")]
    assert f" {np.mean(of_same):.3f} ±" in table[3]
    studies.write_csv(cells, tmp_path / "cells.csv")
    assert (tmp_path / "cells.csv").read_text().count(",other,") == 4
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    studies.plot(cells, tmp_path / "s.png")
    with pytest.raises(ConfigError, match="'animal-1' is to learn from 'other' data: give a recording of another data"):
        studies.run(study, tmp_path / "one", RECORDINGS, reduced=True)
    with pytest.raises(ConfigError, match="'animal-1' is to learn from 'same' data: give another animal of its data"):
        studies.run(study, tmp_path / "two", TWO_DATA_SETS[::2], reduced=True)


def test_the_poco_of_a_study_is_that_of_training(tmp_path: Path) -> None:
    study = studies.Study("one", "", ("poco",), steps=4)
    cell = studies.run(study, tmp_path, RECORDINGS, seeds=1)[0]
    settings = dataclasses.replace(recipe("published")[1], steps=4, val_every=1)
    options = {"recipe": "published", "protocol": "published", "train_config": settings}
    run = train(RECORDINGS, progress=False, **options)
    evaluation = run.evaluate(baselines=())
    assert cell["score"] == pytest.approx(evaluation.score, abs=1e-6)
    assert cell["score_by_session"] == pytest.approx({one.session: one.score for one in evaluation.sessions}, abs=1e-6)


def test_a_model_for_each_data_set(tmp_path: Path) -> None:
    other = [dataclasses.replace(r, session=f"other-{r.session}", dataset="other") for r in simulate(2, 4, 400, seed=5)]
    study = studies.Study("one", "", ("ridge",), ("dataset",))
    both = studies.run(study, tmp_path / "both", [*RECORDINGS, *other], reduced=True)[0]["score"]
    each = [
        studies.run(study, tmp_path / some[0].dataset, some, reduced=True)[0]["score"] for some in (RECORDINGS, other)
    ]
    assert both == pytest.approx(np.mean(each))
    multi = dataclasses.replace(study, training=("multi",))
    assert studies.run(multi, tmp_path / "multi", [*RECORDINGS, *other], reduced=True)[0]["score"] != both


def test_what_is_varied_reaches_the_model(tmp_path: Path) -> None:
    labelled = [dataclasses.replace(r, labels={"region": ("a", "b", "a", "b")}) for r in RECORDINGS]
    cells = studies.run(studies.load("embedding-modes"), tmp_path / "m", labelled, seeds=1, steps=3)
    assert len(cells) == len({cell["score"] for cell in cells}) == 6
    cells = studies.run(studies.load("sweep-learning-rate"), tmp_path / "r", RECORDINGS, seeds=1, steps=3)
    assert len(cells) == len({cell["score"] for cell in cells}) == 4
    study = dataclasses.replace(studies.load("recording-length"), forecasters=("ridge",), values=(128, 256, 400, 512))
    lines: list[str] = []
    longer = [RECORDINGS[0], *simulate(2, units=4, frames=800)[1:]]
    cells = studies.run(study, tmp_path / "f", longer, seeds=1, steps=3, report=lines.append)
    assert lines[0] == "recording-length, 400, 512 frames to learn from: left out, session 'animal-1' has 320"
    assert [cell["value"] for cell in cells] == [128, 256]
    assert len({cell["score"] for cell in cells}) == 2
    study = dataclasses.replace(studies.load("filters"), forecasters=("ridge",))
    cells = studies.run(study, tmp_path / "b", RECORDINGS, seeds=1, steps=3)
    by = {cell["value"]: cell["score"] for cell in cells}
    assert by["low"] > by["none"]  # what is smooth is easily forecast
    assert by["band"] not in (by["low"], by["none"])


def test_windows_of_a_step(tmp_path: Path) -> None:
    study = studies.Study("one", "", ("poco", "nlinear"), steps=2)
    few = studies.run(study, tmp_path / "few", RECORDINGS, seeds=1, batch=4)
    many = studies.run(study, tmp_path / "many", RECORDINGS, seeds=1)
    assert all(a["score"] != b["score"] for a, b in zip(few, many, strict=True))
    with pytest.raises(ConfigError, match="made with batch 4, now None"):
        studies.run(study, tmp_path / "few", RECORDINGS, seeds=1)
    for name in ("adaptation", "zapbench"):
        with pytest.raises(ConfigError, match=r"has steps of its own: leave out batch \(--batch\)"):
            studies.run(studies.load(name), tmp_path / name, RECORDINGS, batch=4)
    with pytest.raises(ConfigError, match="batch must be at least 1, got 0"):
        studies.run(study, tmp_path / "none", RECORDINGS, batch=0)


def test_a_study_says_what_its_numbers_are_and_what_recordings_warn_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from poco.__main__ import run

    control = [dataclasses.replace(r, warnings=("no neural activity",)) for r in RECORDINGS]
    lines: list[str] = []
    studies.run(studies.Study("one", "", ("ridge",)), tmp_path, control, seeds=1, report=lines.append)
    assert lines[0] == "warning: 2 sessions: no neural activity"
    assert run(["study", "table", str(tmp_path)]) == 0
    assert "copy on the test part, published protocol; behind ±" in capsys.readouterr().out
    errors = {"study": "z", "forecaster": "poco", "value": "v", "seed": 0, "mae_per_step": [0.01] * 4}
    assert studies.meaning([errors]).startswith("MAE is")


def test_a_reduced_study_keeps_what_is_given(tmp_path: Path) -> None:
    given = {"seeds": 2, "steps": 2, "simulation": {"animals": 3}}
    cells = studies.run(studies.load("simulation"), tmp_path, reduced=True, **given)
    assert {(cell["seed"], cell["steps"]) for cell in cells} == {(0, 2), (1, 2)}
    assert {(cell["simulate"]["animals"], cell["simulate"]["units"]) for cell in cells} == {(3, 8)}


def test_unknown_study_and_missing_recordings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study 'x': the studies are ablations"):
        studies.load("x")
    with pytest.raises(ConfigError, match="'context' needs recordings"):
        studies.run(studies.load("context"), tmp_path)


def test_what_a_study_has_no_use_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'context' simulates nothing: leave out simulation \(--simulation\)"):
        studies.run(studies.load("context"), tmp_path, RECORDINGS, simulation={"animals": 3})
    with pytest.raises(ConfigError, match=r"'simulation' simulates .*: leave out recordings \(recordings, --data\)"):
        studies.run(studies.load("simulation"), tmp_path, RECORDINGS, reduced=True)
    with pytest.raises(ConfigError, match=r"'zapbench' has a protocol of its own: leave out protocol \(--protocol\)"):
        studies.run(studies.load("zapbench"), tmp_path, RECORDINGS, protocol="leak-free")
    labelled = [dataclasses.replace(r, labels={"region": ("a", "b", "a", "b")}) for r in RECORDINGS]
    for name in ("sessions", "simulation", "adaptation"):
        of_its_own: tuple[Recording, ...] = () if name == "simulation" else tuple(labelled)
        with pytest.raises(ConfigError, match=rf"'{name}' embeds no label of the units: leave out label \(--label\)"):
            studies.run(studies.load(name), tmp_path, of_its_own, label="region", reduced=True)
    for name, value, every in (
        ("adaptation", "animal-2", "animal of the rec"),
        ("embedding-modes", "none", "one of its"),
    ):
        study = dataclasses.replace(studies.load(name), values=(value,))
        with pytest.raises(ConfigError, match=f"'{name}' varies over every {every}.*: leave out values"):
            studies.run(study, tmp_path, RECORDINGS)
    assert not list(tmp_path.iterdir())


def test_table_and_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    base = {"study": "s", "forecaster": "poco", "training": "multi"}
    cells = [{**base, "value": v, "seed": i, "score": v + i} for v in (0.0, 0.5) for i in (0, 1)]
    assert "| s | 0.5 | multi | poco | 1.000 ± 6.353 | 2 |" in studies.table(cells)
    errors = [{**base, "study": "z", "value": "v", "seed": 0, "score": 0.0, "mae_per_step": [0.01] * 4}]
    both = studies.table([*cells, *errors])
    assert both == f"{studies.table(cells)}\n\n{studies.table(errors)}"
    assert "| v | poco | 0.0100 | 0.0100 | 1 |" in both
    studies.plot(cells, tmp_path / "s.png")
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_studies_of_adaptation_and_of_zapbench_are_not_averaged() -> None:
    curve = {"session": "a", "history": [[0, 0.0, 0.1]]}
    same = {"forecaster": "poco", "value": "a", "seed": 0, "training": "full", "frames": None}
    adapted = [{**same, "study": s, "curves": [{**curve, "after": after}]} for s, after in (("x", 0.1), ("y", 0.5))]
    errors = [{**same, "study": s, "mae_per_step": [mae]} for s, mae in (("v", 0.01), ("w", 0.03))]
    for cells in (adapted, errors):
        each = [f"{cell['study']}\n\n{studies.table([cell])}" for cell in cells]
        assert studies.table(cells) == "\n\n".join(each)
    assert "| all | poco | full | 0.500 |" in studies.table(adapted)


def test_the_table_says_what_training_together_gains() -> None:
    base = {"study": "s", "forecaster": "poco", "value": 0.5, "score": 0.0}
    scores = {"single": ({"a": 0.1, "b": 0.2}, {"a": 0.3}), "multi": ({"a": 0.2, "b": 0.1}, {"a": 0.6, "b": 0.0})}
    cells = [
        {**base, "training": training, "seed": seed, "score_by_session": own}
        for training, seeds in scores.items()
        for seed, own in enumerate(seeds)
    ]
    for simulation, gains, rest in (
        (None, [0.2, -0.1], "0.050 | 1 of 2"),  # the seeds of a session are one
        ({"animals": 2}, [0.1, -0.1, 0.3], "0.100 | 2 of 3"),  # they are other animals
    ):
        found = studies.table([{**cell, "simulate": simulation} for cell in cells]).splitlines()[-1]
        assert found == f"| s | 0.5 | poco | multi | {mean_text(gains)} | {rest} |"
    assert "gain over single" not in studies.table([c for c in cells if c["training"] == "multi"])
    without = studies.table([{**cell, "value": None} for cell in cells])  # a study that varies nothing
    assert "| s |  | poco | multi |" in without
    assert "None" not in without


def test_the_figure_shows_what_each_session_gains() -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    from poco.plots.studies import study_figure

    base = {"study": "s", "vary": "simulate.individuality", "seed": 0, "score": 0.0}
    alone, together = {"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 0.15, "b": 0.3, "c": -0.9}
    cells = [
        {**base, "forecaster": name, "value": value, "training": training, "score_by_session": own}
        for name in ("poco", "mlp")
        for value in (0.0, 0.5)
        for training, own in (("single", alone), ("multi", together))
    ]
    _, axes = study_figure(cells).axes
    dots = [list(line.get_ydata()) for line in axes.get_lines()[:-1]]  # the last one is at zero
    assert dots == [pytest.approx([-1.0, 0.05, 0.2])] * 4
    assert [line.get_segments()[0][0][1] for line in axes.collections] == pytest.approx([0.05] * 4)
    places = [float(np.mean(line.get_xdata())) for line in axes.get_lines()[:-1]]
    assert sorted(places) == pytest.approx([-0.175, 0.175, 0.825, 1.175])
    assert (axes.get_yscale(), axes.get_xlabel()) == ("symlog", "individuality")
    assert axes.get_ylim()[0] < -1
    (axes,) = study_figure([cell for cell in cells if cell["training"] == "multi"]).axes


def test_names_are_bars_and_numbers_an_axis() -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    from poco.plots.studies import study_figure

    def cells(values: tuple[object, ...]) -> list[dict[str, object]]:
        scores = {"poco": 0.3, "mlp": 0.2}
        base = {"study": "s", "training": "multi", "vary": "model.film_width"}
        return [
            {**base, "forecaster": f, "value": v, "seed": i, "score": scores[f] + 0.01 * i}
            for f in scores
            for v in values
            for i in (0, 1)
        ]

    (axes,) = study_figure(cells((None,))).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["MLP, multi", "POCO, multi"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.205, 0.305])
    (axes,) = study_figure(cells(("none", "low"))).axes
    assert len(axes.patches) == 4
    for values, scale in {(1, 2, 4): "linear", (1, 4, 8): "log", (0, 4, 1024): "symlog"}.items():
        (axes,) = study_figure(cells(values)).axes
        assert (axes.get_xscale(), axes.get_xlabel(), list(axes.get_xticks())) == (scale, "film width", list(values))
        assert [list(line.get_xdata()) for line in axes.get_lines()] == [list(values)] * 2


def test_scores_of_single_steps(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    study = dataclasses.replace(studies.load("context"), forecasters=("ridge",), values=(4, 12))
    cells = studies.run(study, tmp_path / "s", RECORDINGS, seeds=1, steps=1)
    for cell in cells:
        assert len(cell["score_per_step"]) == 16
        cut = same_targets(split(RECORDINGS, protocol="published", context=cell["value"]), 12)
        model = fit_baseline("ridge", cut)
        assert cell["score_per_step"] == list(score_forecasters({"": model}, cut)[""].score_per_step)
    studies.steps.write_csv(cells, tmp_path / "steps.csv")
    with (tmp_path / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["study", "protocol", "value", "training", "forecaster", "seed", "step", "score"]
    assert [(row["value"], row["step"]) for row in rows] == [(v, str(h)) for v in ("4", "12") for h in range(1, 17)]
    assert float(rows[2]["score"]) == cells[0]["score_per_step"][2]
    studies.plot(cells, tmp_path / "s.png", per_step=True)
    assert (tmp_path / "s.png").stat().st_size > 1000
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from poco.__main__ import run

    assert run(["study", "table", str(tmp_path / "s"), "--steps-csv", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "steps.csv").read_bytes()
    assert run(["study", "plot", str(tmp_path / "s"), str(tmp_path / "s.svg"), "--per-step"]) == 0
    assert "frames ahead" in (tmp_path / "s.svg").read_text()
    whole = [{name: value for name, value in cell.items() if name != "score_per_step"} for cell in cells]
    for make in (functools.partial(studies.plot, per_step=True), studies.steps.write_csv):
        with pytest.raises(DataError, match="no scores of single steps"):
            make(whole, tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"s.doc: a figure is written as .png, .svg or .pdf"):
        studies.plot(cells, tmp_path / "s.doc")
