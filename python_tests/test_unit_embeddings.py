"""Embeddings of units against their definitions, and on sessions where the answer is known."""

from __future__ import annotations

import csv
import dataclasses
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import poco
from poco import unit_embeddings
from poco.errors import CheckpointError, ConfigError, DataError, VocabularyError
from poco.unit_embeddings import SessionEmbeddings, choose, measures, similarity, untrained, write

pytest.importorskip("sklearn", reason="needs the extra 'embed'")

REGIONS = ("a",) * 8 + ("b",) * 7 + ("c",) * 6 + ("",) * 3 + ("alone",)


def session(name: str, strength: float, subject: str = "", seed: int = 0) -> SessionEmbeddings:
    """25 units; those of a region share a direction as strong as said beside noise of 1."""
    centres = np.random.default_rng(99).standard_normal((4, 6)) * strength
    noise = np.random.default_rng(seed).standard_normal((25, 6))
    which = [{"a": 0, "b": 1, "c": 2}.get(region, 3) for region in REGIONS]
    units = tuple(f"u{n}" for n in range(25))
    return SessionEmbeddings(
        name, subject or name, units, (noise + centres[which]).astype(np.float32), {"region": REGIONS}
    )


def test_similarity_is_the_mean_over_pairs_without_self_pairs() -> None:
    entry = session("one", 1.0)
    for metric in ("cosine", "euclidean"):
        regions, found = similarity(entry, "region", metric)
        assert regions == ("a", "alone", "b", "c")
        vectors, names = entry.vectors.astype(float), np.array(REGIONS)
        for i, first in enumerate(regions):
            for j, second in enumerate(regions):
                values = [
                    vectors[m] @ vectors[n] / np.linalg.norm(vectors[m]) / np.linalg.norm(vectors[n])
                    if metric == "cosine"
                    else np.linalg.norm(vectors[m] - vectors[n])
                    for m in np.flatnonzero(names == first)
                    for n in np.flatnonzero(names == second)
                    if m != n
                ]
                expected = np.mean(values) if values else math.nan
                np.testing.assert_allclose(found[i, j], expected, atol=1e-10)
    regions, found = similarity(dataclasses.replace(entry, labels={}), "region")
    assert (regions, found.shape) == ((), (0, 0))
    with pytest.raises(ConfigError, match="metric must be"):
        similarity(entry, "region", "manhattan")


def test_similarity_of_many_units_keeps_no_table_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = session("one", 1.0)
    for metric in ("cosine", "euclidean"):
        whole = similarity(entry, "region", metric)[1]
        with monkeypatch.context() as patched:
            patched.setattr(unit_embeddings, "_PAIRS_AT_ONCE", 60)  # three rows at a time
            np.testing.assert_allclose(similarity(entry, "region", metric)[1], whole, atol=1e-7)
    units = tuple(map(str, range(6000)))
    vectors = np.random.default_rng(0).standard_normal((6000, 4)).astype(np.float32)
    many = SessionEmbeddings("many", "many", units, vectors, {"region": ("a", "b") * 3000})
    tracemalloc.start()
    similarity(many, "region")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6000**2 * 8  # a table of all pairs


def test_regions_that_are_there_are_found_and_others_are_not() -> None:
    apart = [session("one", 3.0, seed=1), session("two", 3.0, seed=2)]
    found = measures(apart, "region", shuffles=199)
    assert {name: m.sessions for name, m in found.items()} == {"silhouette": 2, "within": 2, "across": 2}
    assert found["within"].value > 0.9
    assert found["across"].value > 0.85
    assert found["silhouette"].value > 0.3
    assert all(m.p == pytest.approx(1 / 200) for m in found.values())
    assert 0.25 < found["within"].chance < 0.45  # of three regions
    p = [measures([session("one", 0.0, seed=s)], "region", shuffles=99)["within"].p for s in range(20)]
    assert 0.2 < np.mean(p) < 0.85
    fresh = untrained(apart, seed=4)
    assert fresh[0].vectors.shape == apart[0].vectors.shape
    assert measures(fresh, "region", shuffles=199)["within"].value < 0.7
    again = measures(apart, "region", shuffles=199)
    assert again == found


def test_the_vote_of_the_nearest_by_hand() -> None:
    angles = np.array([0.0, 0.1, 0.25, 1.0, 1.1, 0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    labels = {"region": ("a", "a", "a", "b", "b", "a")}
    entry = SessionEmbeddings("one", "one", tuple("uvwxyz"), vectors, labels)
    assert measures([entry], "region", neighbours=1, shuffles=9)["within"].value == 1.0
    # 3: the two at .6 and .25 outvote the one at 1.1 (and so for 1.1); .6 has .25, 1.0 and 1.1 and is told to be b.
    assert measures([entry], "region", neighbours=3, shuffles=9)["within"].value == pytest.approx(3 / 6)


def test_more_neighbours_than_units_leave_out_the_votes_alone_and_say_why() -> None:
    apart = [session("one", 3.0, seed=1), session("two", 3.0, seed=2)]
    found, usual = measures(apart, "region", neighbours=500, shuffles=9), measures(apart, "region", shuffles=9)
    assert found["silhouette"].value == usual["silhouette"].value
    assert {name: m.why for name, m in usual.items()} == {"silhouette": "", "within": "", "across": ""}
    assert "session 'two' has 21 units of regions of two or more, and a vote of 500 neighbours" in found["within"].why
    assert "22 labelled units of other animals than that of session 'two'" in found["across"].why
    assert "no session has two regions (side) of two units" in measures(apart, "side", shuffles=9)["silhouette"].why
    assert "no two animals" in measures(apart[:1], "region", shuffles=9)["across"].why


def test_nearness_of_pairs_by_hand() -> None:
    angles = np.array([0.0, 0.1, 0.25, 1.0, 0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    # a: 0 and .1 are each other's nearest; b: of .25 the farthest of four is 1.0, of 1.0 the second nearest is .25.
    entry = SessionEmbeddings("one", "one", tuple("uvwxy"), vectors, {"region": ("a", "a", "b", "b", "")})
    found = measures([entry], "region", neighbours=1, shuffles=99)["pairs"]
    # without the unit that has no region, of the three others: nearest, nearest, farthest, nearest
    assert found.value == pytest.approx(np.mean([1, 1, 0, 1]))
    assert found.chance == pytest.approx(0.5, abs=0.15)
    assert "pairs" not in measures([session("one", 3.0)], "region", shuffles=9)


def test_sessions_of_one_animal_are_not_two_animals() -> None:
    same = [session("one", 3.0, "fish", 1), session("two", 3.0, "fish", 2)]
    found = measures(same, "region", shuffles=9)["across"]
    assert (found.sessions, math.isnan(found.value)) == (0, True)
    with pytest.raises(ConfigError, match="at least 1"):
        measures(same, "region", neighbours=0)


def test_the_cosine_of_an_ensemble_is_the_mean_over_its_members() -> None:
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        members.append(poco.POCO(poco.POCOConfig(width=12, heads=2, head_width=8), [poco.SessionSpec("a", 5)]))
    each = [poco.embeddings(member)[0].vectors for member in members]
    joined = poco.embeddings(poco.Ensemble(members))[0].vectors

    def cosine(vectors: np.ndarray) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit @ unit.T

    assert joined.shape == (5, 24)
    np.testing.assert_allclose(cosine(joined), np.mean([cosine(v) for v in each], 0), atol=1e-6)


def test_a_model_gives_what_it_learnt_with_the_labels_of_the_recording() -> None:
    recordings = poco.simulate(2, 9, 300, regions=3, seed=1)
    kept = ("4", "0", "7")
    specs = [poco.SessionSpec(recordings[0].session, kept), poco.SessionSpec("elsewhere", 4)]
    model = poco.POCO(poco.POCOConfig(width=12, heads=2, head_width=8), specs)
    first, second = poco.embeddings(model, recordings)
    np.testing.assert_array_equal(first.vectors, model.session_parameters(0)[0].detach().numpy())
    assert first.labels["region"] == tuple(recordings[0].labels["region"][int(unit)] for unit in kept)
    assert (second.session, second.labels, second.coordinates) == ("elsewhere", {}, None)
    strange = poco.POCO(poco.POCOConfig(), [poco.SessionSpec(recordings[0].session, ("0", "nobody"))])
    with pytest.raises(DataError, match="a unit 'nobody'"):
        poco.embeddings(strange, recordings)
    with pytest.raises(VocabularyError, match="knows no session yet"):
        poco.embeddings(poco.POCO())
    with pytest.raises(ConfigError, match=r"what has embeddings of units is a POCO.*not a Linear: give"):
        poco.embeddings(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="nowhere: no such run folder or folder of a model"):
        poco.embeddings("nowhere")


def test_the_label_is_chosen_or_asked_for() -> None:
    recordings = poco.simulate(1, 9, 300, regions=3, seed=1)
    assert choose(recordings, None) == "region"
    assert choose(poco.simulate(1, 9, 300), None) is None
    with pytest.raises(DataError, match="no recording has a label 'side' of its units; there is: region"):
        choose(recordings, "side")
    unknown = [dataclasses.replace(r, labels={**r.labels, "side": ("",) * r.units}) for r in recordings]
    assert choose(unknown, None) == "region"  # a label that no unit has is none
    assert choose([], None) is None
    with pytest.raises(DataError, match=r"have a label 'region': give recordings \(--data\)"):
        choose([], "region")


def test_tables_and_arrays_hold_everything(tmp_path: Path) -> None:
    one, two = session("one", 1.0, seed=1), session("two", 1.0, seed=2)
    places = np.arange(50, dtype=np.float32).reshape(25, 2)
    one = SessionEmbeddings("one", "one", one.units, one.vectors, one.labels, places)
    two = SessionEmbeddings("two", "two", two.units, two.vectors, {})
    with write([one, two], tmp_path / "made" / "e.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    assert (rows[3]["session"], rows[3]["unit"], rows[3]["region"], rows[3]["y"]) == ("one", "u3", "a", "7.0")
    assert (rows[30]["region"], rows[30]["x"]) == ("", "")
    vectors = np.array([[row[f"e{k}"] for k in range(6)] for row in rows], np.float32)
    np.testing.assert_array_equal(vectors, np.concatenate([one.vectors, two.vectors]))
    with np.load(write([one, two], tmp_path / "e.npz")) as arrays:
        np.testing.assert_array_equal(arrays["vectors"], vectors)
        assert list(arrays["label_region"][:25]) == list(REGIONS)
        np.testing.assert_array_equal(arrays["coordinates"][:25], places)
        assert np.isnan(arrays["coordinates"][25:]).all()
    with pytest.raises(ConfigError, match=r"\.csv or \.npz"):
        write([one], tmp_path / "e.txt")
