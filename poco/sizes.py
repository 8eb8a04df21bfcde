"""Sizes of a window where nothing else is said."""

#: Frames that a forecast is made from, and frames that are forecast.
CONTEXT, HORIZON = 48, 16


def longest_segment(context: int, most: int) -> int:
    """The longest segment that divides a context, of at most so many frames."""
    return next(length for length in range(min(most, context), 0, -1) if context % length == 0)
