"""poco.studies.definition: a study of one's own, and what makes none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poco import studies
from poco.data.simulate import simulate
from poco.errors import ConfigError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "studies.md"
BASE: dict[str, Any] = {"title": "", "forecasters": ("poco",)}
ANIMAL: dict[str, Any] = {"vary": "animal", "base_steps": 4, "training": ("full",)}


@pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not beside these tests")
def test_the_studies_of_the_documentation_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from poco.__main__ import run

    data = tmp_path / "data"
    data.mkdir()
    for recording in simulate(2, units=4, frames=400):
        np.save(data / f"{recording.session}.npy", recording.activity)
    (data / "dataset.toml").write_text('[activity]\norientation = "units x frames"\nrate_hz = 20.0\n')
    texts = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in zip(("small-pocos", "simulation-short"), texts, strict=True):
        file = tmp_path / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        study = studies.load(file)
        given = [str(file), "--out", str(tmp_path / name)]
        given += ["--data", str(data)] if study.simulate is None else []
        assert run(["study", "run", *given, "--reduced", "--threads", "1"]) == 0, capfd.readouterr().err
        rows = capfd.readouterr().out
        for value in study.values[:2]:
            assert f"| {name} | {value} | multi | poco |" in rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"forecasters": ("nosuch",)}, "there is no forecaster 'nosuch': choose from poco, copy, mean"),
        ({"forecasters": ()}, "forecasters are missing"),
        ({"forecasters": ("ridge", "ridge")}, "one of the forecasters is there twice"),
        ({"forecasters": "poco"}, "forecasters must be a list, each text, got 'poco'"),
        ({"title": 3}, "title must be text, got 3"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"training": ("mulit",)}, "there is no training 'mulit': choose from multi, dataset, single"),
        ({"training": ("full",)}, "there is no training 'full'"),
        ({"vary": "nonsense", "values": (1, 2)}, "there is no 'nonsense' to vary: choose from context, .*, model.OPT"),
        ({"vary": "sweep.x", "values": (1,)}, "there is no group 'sweep' to vary: it is one of model, training"),
        ({"vary": "model.widht", "values": (8,)}, "there is no option 'widht' of model to set: there are attention_"),
        ({"vary": "model.context", "values": (8,)}, "there is no option 'context' of model to set"),
        ({"vary": "model.width", "values": ("8",)}, "model.width must be a whole number, got '8'"),
        ({"vary": "model.width", "values": (8.5,)}, "model.width must be a whole number, got 8.5"),
        ({"vary": "model.segment_length", "values": (7,)}, "segment_length 7 .* does not divide the 48 frames"),
        (
            {"vary": "training.learning_rate", "values": ("fast",)},
            "training.learning_rate must be a number, got",
        ),
        ({"vary": "training.schedule", "values": ("linear",)}, "training.schedule must be 'constant' or 'cosine', got"),
        (
            {"vary": "training.learning_rate", "values": (-1.0,)},
            "learning_rate must be a finite number above 0, got -1.0",
        ),
        ({"vary": "simulate.gain", "values": (2.0,)}, 'vary = "simulate.gain" needs simulate'),
        ({"simulate": {"animal": 3}}, "there is no option 'animal' of simulate to set: there are animals"),
        ({"simulate": {"animals": 0}}, "simulate: animals must be at least 1, got 0"),
        ({"simulate": {"regions": 9, "units": 8}}, "simulate: 9 regions need at least 9 units, got 8"),
        (
            {"simulate": {"animals": 3}, "vary": "simulate.individuality", "values": (0.0, 2.0)},
            "simulate: individuality must lie between 0 and 1, got 2.0",
        ),
        (
            {"simulate": {"rate_hz": 20.0}, "vary": "simulate.step", "values": (0.01, 0.03)},
            "simulate: a frame at 20.0 Hz must be a whole number of 0.03 s steps",
        ),
        ({"vary": "context", "values": ("long",)}, "a value of context must be a whole number, got 'long'"),
        ({"vary": "frames", "values": (0,)}, "a value of frames must be at least 1, got 0"),
        ({"vary": "filter", "values": ("high",)}, "there is no filter 'high': choose from none, low, band"),
        ({"vary": "context"}, "a value of context must be a whole number, got None"),
        ({"values": (1, 2)}, "values without vary"),
        ({"vary": "model"}, 'options belong to vary = "model"'),
        ({"options": ({"name": "a"},)}, 'options belong to vary = "model"'),
        ({"vary": "model", "options": ({"width": 8},)}, "each of the options needs a name of its own"),
        ({"vary": "model", "options": ({"name": "a"}, {"name": "a"})}, "each of the options needs a name of its own"),
        ({"vary": "model", "options": ({"name": "a", "latnets": 2},)}, "there is no option 'latnets' of model to set"),
        ({"vary": "model", "options": ({"name": "a", "context": 12},)}, "there is no option 'context' of model"),
        ({"vary": "animal"}, 'base_steps belong to vary = "animal"'),
        ({"base_steps": 3}, 'base_steps belong to vary = "animal"'),
        ({"sources": ("same",)}, 'sources belong to vary = "animal"'),
        ({"frames": (128, 256)}, 'several frames are given as values of vary = "frames"'),
        ({"frames": (128,), "vary": "frames", "values": (64,)}, 'vary = "frames" has values and no frames'),
        (
            {"form": "zapbench", "epochs": 2, "vary": "model", "options": ({"name": "a"},), "frames": (128,)},
            "the form 'zapbench' has parts of its own: leave out frames",
        ),
        ({**ANIMAL, "training": ("multi",)}, "there is no training 'multi': choose from zero-shot, embeddings"),
        ({**ANIMAL, "forecasters": ("ridge",)}, "there is no forecaster 'ridge': choose from poco"),
        ({**ANIMAL, "sources": ("none",)}, "there is no source 'none': choose from same, other, both"),
        ({**ANIMAL, "frames": (0,)}, "frames must be at least 1, got 0"),
        ({"form": "zap"}, "there is no form 'zap'"),
        ({"form": "zapbench"}, 'epochs belong to form = "zapbench"'),
        ({"form": "zapbench", "epochs": 2}, "the form 'zapbench' has vary = \"model\" and options"),
        (
            {"form": "zapbench", "epochs": 2, "vary": "model", "options": ({"name": "a"},)},
            "the option 'a' of the form 'zapbench' needs a context",
        ),
    ],
)
def test_what_makes_no_study_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^the study 'x': {message}"):
        studies.Study("x", **{**BASE, **given})


def test_files_that_hold_no_study(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    for text, message in {
        "title = ": r"x\.toml is no TOML: ",
        'title = "t"': r"x\.toml: the study has no forecasters",
        'title = "t"\nforecaster = ["poco"]': r"x\.toml: a study has no 'forecaster': it has title, ",
        'title = "t"\nforecasters = ["pocco"]': "the study 'x': there is no forecaster 'pocco'",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            studies.load(file)
    with pytest.raises(ConfigError, match=r"cannot read the study .*y\.toml: No such file"):
        studies.load(str(tmp_path / "y.toml"))
