"""The ground: a shared linear map and strongly shrunk terms of each unit, fitted in closed form."""

from __future__ import annotations

from poco.data.splits import Split
from poco.ground.config import GroundConfig
from poco.ground.model import Ground
from poco.ground.selection import fit_selected


class GroundBaseline(Ground):
    """:class:`poco.ground.Ground`, fitted and mixed without a gradient step; it knows the sessions it was fitted to.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
    """

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__(GroundConfig(context, horizon))

    def fit(self, split: Split) -> GroundBaseline:
        """Fit on the training part, choose the mixture there and on the validation part; returns itself."""
        fitted, _ = fit_selected(split, self.config)
        self.load_state_dict(fitted.ground.state_dict())
        return self
