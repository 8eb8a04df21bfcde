"""Training the members of an ensemble, one seed after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from poco.files import CONFIG, MEMBERS, METRICS, MODEL, RESUME
from poco.nn.files import read_config
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig
from poco.training.folder import read_metrics, remove_scores
from poco.training.loop import config_changes
from poco.training.trainer import Trainer

if TYPE_CHECKING:
    from poco.ensemble import Ensemble
    from poco.models import Member


def train_members(
    trainer: Trainer,
    settings: TrainConfig,
    seeds: int,
    folder: Path | None,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> tuple[Ensemble, list[dict[str, Any]]]:
    """Train a model from each of several seeds.

    In a run folder each member has a folder of its own, with its checkpoint and, once it is trained, its model, the
    same as that of a run of its seed alone. The model of the run is the ensemble of those that are trained; before
    that, the best so far of the first one.

    Args:
        trainer: trains one member.
        settings: of the loop, with the first seed.
        seeds: how many.
        folder: the run folder; None keeps everything in memory.
        resume: take members that are trained already, and go on with the one that was being trained.
        callbacks: what may watch.

    Returns:
        The ensemble, and the records of all members, one after another, each with its ``seed``.

    Raises:
        CheckpointError: if a member's files cannot be read or do not belong to this run, or one cannot be written.
        Interrupted: after SIGINT or SIGTERM, when the state has been saved.
    """
    members: list[Member] = []
    records: list[dict[str, Any]] = []
    for number in range(seeds):
        own = dataclasses.replace(settings, seed=settings.seed + number)
        place = folder / MEMBERS / str(own.seed) if folder is not None else None
        for callback in callbacks:
            callback.member(own.seed, number + 1, seeds)
        found = _trained(place, own) if place is not None and resume else None
        if found is None:
            options: dict[str, Any] = {"labels": {"seed": own.seed}}
            if folder is not None and place is not None:
                place.mkdir(parents=True, exist_ok=True)
                options |= {"checkpoint": place / RESUME, "resume": resume}
                options |= {"keep": _keep_in(folder / MODEL)} if not members else {}
            member, history = trainer.train(own, **options)
            member.metadata["training"] |= {"step": history.best_step, "settings": own.to_json()}
            records += history.records
            if place is not None:
                member.save_pretrained(place)
        else:
            assert folder is not None
            member = found.to(own.torch_device())
            records += [record for record in read_metrics(folder / METRICS) if record.get("seed") == own.seed]
            for callback in callbacks:
                callback.message(f"seed {own.seed} is trained already")
        members.append(member)
        if folder is not None and found is None:
            remove_scores(folder)
        if folder is not None and (found is None or number + 1 == seeds):
            _together(members).save_pretrained(folder / MODEL)
    return _together(members).eval(), records


def _trained(place: Path, settings: TrainConfig) -> Member | None:
    """The member in a folder if it was trained to its end under these settings."""
    from poco import models

    if not (place / CONFIG).exists():  # written last
        return None
    before = TrainConfig.from_json(read_config(place)["training"]["settings"])
    if before.steps != settings.steps or config_changes(before, settings):
        return None  # the loop goes on, or says what keeps it from that
    return cast("Member", models.read_model(place))


def _keep_in(folder: Path) -> Callable[[Member, int], None]:
    """Keeps the best first member so far as the model of the run."""

    def keep(member: Member, step: int) -> None:
        member.metadata["training"]["step"] = step
        _together([member]).save_pretrained(folder)

    return keep


def _together(members: Sequence[Member]) -> Ensemble:
    """The ensemble of the members; its metadata is what they have in common, and their seeds."""
    from poco.ensemble import Ensemble

    ensemble = Ensemble(members)  # in the members' own mode: one of them may be in training
    first = members[0].metadata
    common = {name: value for name, value in first["training"].items() if name not in ("step", "settings")}
    seeds = [member.metadata["training"]["seed"] for member in members]
    ensemble.metadata = {
        "training": {**common, "seeds": seeds},
        "rate_hz": first["rate_hz"],
        "fingerprints": first["fingerprints"],
        "reading": first["reading"],
    }
    return ensemble
