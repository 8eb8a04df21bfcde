"""poco.parameters: what is solved for is counted, on every kind of model, and statistics are not."""

from __future__ import annotations

from poco import SessionSpec
from poco.baselines import NLinear, Ridge, UnitRidge
from poco.ground import GroundConfig
from poco.ground.grounded import Grounded
from poco.ground.model import Ground
from poco.parameters import count_solved

SESSIONS = [SessionSpec("a", ("x", "y")), SessionSpec("b", ("z",))]


def test_weights_of_all_units_and_of_each() -> None:
    assert count_solved(Ridge(48, 16)) == 48 * 16
    assert count_solved(UnitRidge(48, 16, SESSIONS)) == 3 * 48 * 16
    assert count_solved(NLinear(48, 16)) == 0  # trained


def test_the_ground_has_shared_weights_and_coefficients_of_each_unit() -> None:
    ground = Ground(GroundConfig(), SESSIONS)
    forms = [ground.form(index) for index in range(2)]
    shared = sum(form.weight.numel() for form in forms)
    own = sum(ground.terms(session).form(i).coefficients.numel() for session in range(2) for i in range(2))
    assert shared == 2 * 48 * 16
    assert own > 0
    assert count_solved(ground) == shared + own
    assert count_solved(Grounded(sessions=SESSIONS)) == count_solved(ground)
