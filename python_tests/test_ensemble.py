"""poco.ensemble: the mean of its members, in one file, adapted and forecasting as one model."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import random_model, randomise
from helpers.recordings import waves

import poco
from poco import Ensemble, commands, models
from poco.data.splits import Split, split
from poco.data.windows import Packer
from poco.errors import CheckpointError, ConfigError, VocabularyError
from poco.evaluation import evaluate
from poco.ground.grounded import Grounded, GroundedConfig
from poco.ground.job import prepare
from poco.plots.examples import choose_examples
from poco.training import TrainConfig

SIZES = poco.POCOConfig(
    context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8
)
KINDS = ["POCO", "Grounded"]
SETTINGS = TrainConfig(steps=4, batch_size=8)


@pytest.fixture(scope="module")
def cut() -> Split:
    return split([waves("a", frames=300, rate_hz=2.0), waves("b", units=3, frames=300)], context=12, horizon=4)


@pytest.fixture(scope="module")
def ensembles(cut: Split) -> dict[str, Ensemble]:
    """Three members of each kind that differ in their weights."""
    pocos: list[Any] = []
    for seed in range(3):
        model = poco.POCO(SIZES, [poco.SessionSpec(r.session, r.unit_ids, r.dataset) for r in cut.recordings])
        randomise(model, seed).float()
        for index, recording in enumerate(cut.recordings):
            model.set_normalisation(recording.session, cut.mean[index].copy(), cut.std[index].copy())
        pocos.append(model)
    first = prepare(cut, GroundedConfig(12, 4, latents=2, width=8), SETTINGS)
    grounded: list[Any] = []
    for seed in range(3):
        settings = dataclasses.replace(SETTINGS, seed=seed)
        member = prepare(cut, GroundedConfig(12, 4, latents=2, width=8), settings, like=first)[0]
        with torch.no_grad():
            member.networks["level"].output.weight.normal_()
        grounded.append(member)
    for members in (pocos, grounded):
        for number, member in enumerate(members):
            member.metadata["number"] = number
    found = {"POCO": Ensemble(pocos).eval(), "Grounded": Ensemble(grounded).eval()}
    for ensemble in found.values():
        ensemble.metadata = {"training": {"seeds": [0, 1, 2]}, "rate_hz": {"a": 2.0, "b": None}}
    return found


@pytest.fixture(params=KINDS)
def ensemble(request: pytest.FixtureRequest, ensembles: dict[str, Ensemble]) -> Ensemble:
    return ensembles[request.param]


def packed(ensemble: Ensemble, cut: Split) -> Any:
    return Packer(cut, ensemble.sessions).pack(cut.windows("test"))


def test_the_forecast_is_the_mean_of_the_members(ensemble: Ensemble, cut: Split) -> None:
    batch = packed(ensemble, cut)
    members = torch.stack([member.forward_packed(batch) for member in ensemble])
    assert not torch.allclose(members[0], members[1], atol=1e-3)
    torch.testing.assert_close(ensemble.forward_packed(batch), members.mean(0))
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(ensemble(x, session="b"), torch.stack([m(x, session="b") for m in ensemble]).mean(0))
    alone = Ensemble([next(iter(ensemble))])
    assert torch.equal(alone.forward_packed(batch), members[0])


def test_means_are_taken_in_float32_or_better() -> None:
    low = Ensemble([random_model(3).to(torch.bfloat16), random_model(3).to(torch.bfloat16)]).eval()
    units, context = len(low.sessions[0].units), low.config.context
    assert low(torch.randn(2, units, context).bfloat16(), 0).dtype == torch.float32
    assert low.double()(torch.randn(2, units, context).double(), 0).dtype == torch.float64


def test_it_is_known_as_its_members_are(ensemble: Ensemble, cut: Split) -> None:
    first = next(iter(ensemble))
    assert len(ensemble) == 3
    assert ensemble.config == first.config
    assert ensemble.sessions == first.sessions
    assert ensemble.session_index("b") == 1
    with pytest.raises(VocabularyError, match="the model knows 2 sessions: choose one"):
        ensemble(torch.zeros(1, 4, 12))
    mean, std = ensemble.normalisation("a")
    assert torch.equal(mean, torch.from_numpy(cut.mean[0].copy()))
    assert torch.equal(std, torch.from_numpy(cut.std[0].copy()))
    with pytest.raises(VocabularyError, match="unknown session 'z'"):
        ensemble(torch.zeros(1, 3, 12), session="z")


def test_round_trip(ensemble: Ensemble, cut: Split, tmp_path: Path) -> None:
    ensemble.save_pretrained(tmp_path / "model", {"note": 1})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    again = models.load(tmp_path / "model")
    assert isinstance(again, Ensemble)
    assert not again.training
    assert again.metadata == {**ensemble.metadata, "note": 1}
    assert [member.metadata for member in again] == [member.metadata for member in ensemble]
    state = again.state_dict()
    assert state.keys() == ensemble.state_dict().keys()
    assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in ensemble.state_dict().items())
    batch = packed(ensemble, cut)
    assert torch.equal(ensemble.forward_packed(batch), again.forward_packed(batch))
    again.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_what_members_share_is_stored_once(ensembles: dict[str, Ensemble], tmp_path: Path) -> None:
    import safetensors.torch

    ensemble = ensembles["Grounded"]
    ensemble.save_pretrained(tmp_path)
    names = safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    assert "members.2.networks.level.output.weight" in names
    assert not [name for name in names if name.startswith("members.") and ".ground." in name]
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model"], config["config"]["kind"], len(config["config"]["members"])) == ("Ensemble", "Grounded", 3)


def test_damaged_files_are_refused(ensemble: Ensemble, tmp_path: Path) -> None:
    ensemble.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())

    def refused(says: str, **change: Any) -> None:
        path.write_text(json.dumps({**good, "config": {**good["config"], **change}}))
        with pytest.raises(CheckpointError, match=says) as caught:
            Ensemble.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)

    refused("members of kind POCO or Grounded, not 'Ensemble'", kind="Ensemble")
    refused("tensors of more than 2 members", members=good["config"]["members"][:2])
    refused("do not fit together|lacks", members=[*good["config"]["members"], {}])
    refused("members of kind", members=3)
    path.write_text(json.dumps({**good, "config": {}}))
    with pytest.raises(CheckpointError, match="lacks 'kind'"):
        Ensemble.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="of kind 'Ensemble', not 'POCO'"):
        poco.POCO.from_pretrained(tmp_path)


def test_members_must_be_alike(ensembles: dict[str, Ensemble]) -> None:
    first, ground = next(iter(ensembles["POCO"])), next(iter(ensembles["Grounded"]))
    assert isinstance(first, poco.POCO)
    with pytest.raises(ConfigError, match="at least one member"):
        Ensemble([])
    with pytest.raises(ConfigError, match="of kind POCO or Grounded, not Ensemble"):
        Ensemble([ensembles["POCO"]])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="of one kind, not POCO and Grounded"):
        Ensemble([first, ground])
    with pytest.raises(ConfigError, match="the same sizes"):
        Ensemble([first, poco.POCO(dataclasses.replace(SIZES, width=16), first.sessions)])
    with pytest.raises(VocabularyError, match="the same sessions"):
        Ensemble([first, first.subset(["a"])])
    other = copy.deepcopy(first)
    other.set_normalisation("b", torch.zeros(3), torch.ones(3))
    with pytest.raises(ConfigError, match="session 'b' differs"):
        Ensemble([first, other])


def test_scores_forecasts_and_examples(ensemble: Ensemble, cut: Split) -> None:
    assert evaluate(ensemble, cut, baselines=()).windows > 0
    together = poco.forecast(ensemble, cut.recordings[1])
    members = [poco.forecast(member, cut.recordings[1]).values for member in ensemble]
    torch.testing.assert_close(
        torch.from_numpy(together.values), torch.stack([torch.from_numpy(v) for v in members]).mean(0)
    )
    assert [example.session for example in choose_examples(ensemble, cut, count=3)] == ["a", "b", "a"]


def test_a_new_session_is_learnt_by_each_member(ensemble: Ensemble, tmp_path: Path) -> None:
    new = waves("c", units=4, frames=300, rate_hz=2.0)
    before = copy.deepcopy(ensemble.state_dict())
    adapted = poco.adapt(
        ensemble, new, steps=4, batch_size=8, seed=5, precision="float32", source={"options": {"key": "k"}}
    )
    assert all(torch.equal(value, before[name]) for name, value in ensemble.state_dict().items())
    assert isinstance(adapted.model, Ensemble)
    assert [spec.name for spec in adapted.model.sessions] == ["a", "b", "c"]
    assert [point.score for point in adapted.history] == [adapted.before, adapted.after]
    assert adapted.after == evaluate(adapted.model, adapted.split, baselines=()).score
    assert adapted.after != adapted.before
    alone = [poco.adapt(m, new, steps=4, batch_size=8, seed=5 + i, precision="float32") for i, m in enumerate(ensemble)]
    assert adapted.parameters == sum(one.parameters for one in alone)
    for member, one in zip(adapted.model, alone, strict=True):
        theirs = one.model.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in member.state_dict().items())
        assert member.metadata["number"] == one.model.metadata["number"]
    adapted.model.save_pretrained(tmp_path)
    again = models.load(tmp_path)
    assert again.metadata["rate_hz"] == {"a": 2.0, "b": None, "c": 2.0}
    assert again.metadata["reading"] == {"key": "k"}
    assert again.metadata["adaptations"][0]["session"] == "c"
    assert poco.forecast(again, new, latest=True).values.shape == (1, 4, 4)


def test_other_ways_to_adapt(ensembles: dict[str, Ensemble]) -> None:
    new = waves("c", units=4, frames=300)
    scratch = poco.adapt(ensembles["POCO"], new, mode="scratch", steps=2, batch_size=8)
    assert [spec.name for spec in scratch.model.sessions] == ["c"]
    first, second, _ = scratch.model
    assert not torch.equal(first.latents, second.latents)
    solved = [poco.adapt(ensembles["Grounded"], new, mode=mode) for mode in (None, "solve", "embeddings")]
    assert {one.mode for one in solved} == {"solve"}
    assert len({one.after for one in solved}) == 1
    assert "--mode solve" in commands.adapt(solved[0], "again")
    with pytest.raises(ConfigError, match="takes a session by a solve"):
        poco.adapt(ensembles["Grounded"], new, mode="full")
    with pytest.raises(ConfigError, match="mode must be one of"):
        poco.adapt(ensembles["POCO"], new, mode="partly")
    with pytest.warns(RuntimeWarning, match="the model learnt from 2: resample") as caught:
        poco.adapt(ensembles["Grounded"], dataclasses.replace(new, rate_hz=20.0))
    assert len(caught) == 1


def test_members_of_the_ground_keep_its_penalties(ensembles: dict[str, Ensemble], tmp_path: Path) -> None:
    ensembles["Grounded"].save_pretrained(tmp_path)
    for ours, theirs in zip(ensembles["Grounded"], Ensemble.from_pretrained(tmp_path), strict=True):
        assert isinstance(ours, Grounded)
        assert isinstance(theirs, Grounded)
        assert theirs.penalties == ours.penalties
