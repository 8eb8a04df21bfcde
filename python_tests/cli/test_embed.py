"""``poco embed``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poco.data.simulate import simulate

pytest.importorskip("sklearn", reason="needs the extra 'embed'")
pytest.importorskip("matplotlib", reason="needs the extra 'plots'")


def test_regions_of_a_real_recording(poco, shared_data: Path, tmp_path: Path) -> None:
    from poco.data.read import read
    from poco.training import TrainConfig, train

    run, table, place = tmp_path / "run", tmp_path / "embeddings.csv", shared_data / "zebrafish_units_chen2018"
    config = TrainConfig(steps=2, batch_size=4, val_every=2, device="cpu")
    train(
        read(place)[:2],
        recipe="published",
        train_config=config,
        out=run,
        progress=False,
        source={"path": str(place), "options": {}},
    )
    asked = ("embed", run, "--label", "region", "--shuffles", 19)
    figures = tmp_path / "figures"
    done = poco(*asked, "--out", table, "--figures", figures, "--json")
    assert done.code == 0, done.err
    assert {"embeddings-pca.svg", "similarity.png"} <= {file.name for file in figures.iterdir()}
    found = done.json
    assert set(found["measures"]) == {"trained", "untrained"}
    for kind in found["measures"].values():
        assert kind["within"]["sessions"] == kind["across"]["sessions"] == len(found["sessions"])
        assert 0 < kind["within"]["value"] < 1
        assert 1 / 20 <= kind["within"]["p"] <= 1
    first = found["sessions"][0]
    assert len(first["cosine"]) == len(first["regions"]) == len(first["euclidean"][0])
    assert table.read_text().startswith("session,unit,")
    done = poco(*asked)
    assert "Do embeddings tell 'region'?" in done.out
    assert "untrained" in done.out
    assert "No 'within': session " in poco(*asked, "--neighbours", 500).err
    done = poco("embed", run, "--label", "colour")
    assert done.code == 2
    assert "no recording has a label 'colour'" in done.err


def test_what_has_no_embeddings_or_no_labels_says_so(poco, recordings: Path, trained: Path, tmp_path: Path) -> None:
    done = poco("embed", trained)
    assert done.code == 0, done.err  # a POCO, on recordings without labels
    assert "no labels of units" in done.err
    run = tmp_path / "grounded"
    short = ("--no-baselines", "--steps", 2, "--val-every", 2, "--context", 12, "--horizon", 4)
    assert poco("train", recordings, "--out", run, *short).code == 0
    done = poco("embed", run)
    assert done.code == 2
    assert "Grounded learns no embeddings of units" in done.err


def test_a_model_alone_has_embeddings_too(poco, trained: Path, recordings: Path, tmp_path: Path) -> None:
    table = tmp_path / "embeddings.csv"
    done = poco("embed", trained / "model", "--out", table)
    assert done.code == 0, done.err
    assert "16 units in 2 sessions" in done.out
    assert "give recordings (--data)" in poco("embed", trained / "model", "--label", "region").err
    assert "A model alone does not say where its recordings are: give them (--data)" in done.err
    assert len(table.read_text().splitlines()) == 17
    done = poco("embed", trained / "model", "--data", recordings)
    assert done.code == 0, done.err
    assert "The recordings have no labels of units" in done.err
    np.savez(tmp_path / "stranger.npz", activity=simulate(1, 5, 400, seed=9)[0].activity)
    (tmp_path / "dataset.toml").write_text((recordings / "dataset.toml").read_text())
    done = poco("embed", trained / "model", "--data", tmp_path / "stranger.npz")
    assert done.code == 2
    assert "has no session that the model knows: these are animal-1, animal-2" in done.err


def test_an_adapted_model_has_embeddings_too(poco, trained: Path, recordings: Path, tmp_path: Path) -> None:
    new, adapted, table = tmp_path / "stranger.npz", tmp_path / "adapted", tmp_path / "embeddings.csv"
    np.savez(new, activity=simulate(1, 5, 400, seed=9)[0].activity)
    (tmp_path / "dataset.toml").write_text((recordings / "dataset.toml").read_text())
    assert poco("adapt", trained, new, "--out", adapted, "--steps", 2).code == 0
    done = poco("embed", adapted, "--out", table)
    assert done.code == 0, done.err
    assert [line.split(",")[0] for line in table.read_text().splitlines()].count("stranger") == 5
