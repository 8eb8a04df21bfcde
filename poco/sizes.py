"""Sizes of a window where nothing else is said."""

#: Frames that a forecast is made from, and frames that are forecast.
CONTEXT, HORIZON = 48, 16
