"""What baselines that know sessions share: windows of one session as ``[B, N, C]``, and normalisation of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.errors import VocabularyError
from poco.nn.vocabulary import SessionSpec


def instance_normalised(x: Tensor, forecast: Callable[[Tensor], Tensor]) -> Tensor:
    """Forecast rows ``[R, C]`` after taking off their own mean and deviation, which are put back."""
    mean = x.mean(-1, keepdim=True)
    std = (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return forecast((x - mean) / std) * std + mean


class OfSessions(nn.Module):
    """A baseline with parameters of each session; a subclass forecasts the windows of one at a time, or of all.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
    """

    def __init__(self, context: int, horizon: int, sessions: Sequence[SessionSpec]) -> None:
        super().__init__()
        self.context, self.horizon, self.sessions = context, horizon, tuple(sessions)

    def forecast(self, x: Tensor, session: int) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, H]``."""
        raise NotImplementedError

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        out = batch.x.new_empty(batch.x.shape[0], self.horizon)
        for session, rows in self.windows_of(batch):
            out[rows.flatten()] = self.forecast(batch.x[rows], session).flatten(0, 1).to(out.dtype)
        return out

    def windows_of(self, batch: PackedBatch) -> list[tuple[int, Tensor]]:
        """Each session in a batch with the rows ``[B, N]`` of its windows.

        Raises:
            VocabularyError: if it does not know one of them.
        """
        found = [(session, rows) for session, _, rows in batch.by_session()]
        for session, _ in found:
            if session >= len(self.sessions):
                raise VocabularyError(f"session {session} of {len(self.sessions)} known ones: fit the baseline to it")
        return found
