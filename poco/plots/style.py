"""Colours and matplotlib settings that all figures share."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette: told apart under the common kinds of colour blindness.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
INK, GREY, PALE = "#222222", "#8C8C8C", "#E3E3E3"

COLOURS = {
    "poco": BLUE,
    "grounded": BLUE,
    "mlp": VERMILION,
    "nlinear": GREEN,
    "ridge": ORANGE,
    "ground": SKY,
    "mean": PURPLE,
    "copy": GREY,
}
#: Names that are shown otherwise than they are written.
NAMES = {"poco": "POCO", "mlp": "MLP", "nlinear": "NLinear"}

SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "poco",
}


def colour(forecaster: str) -> str:
    """Colour of a forecaster, the same in every panel and however it was fitted."""
    return COLOURS.get(forecaster.split(",", maxsplit=1)[0], SKY)


def is_own(forecaster: str) -> bool:
    """Whether a forecaster is the one that is shown, and not one that it is compared with."""
    return forecaster.startswith(("poco", "grounded"))


def label(forecaster: str) -> str:
    """Name of a forecaster as a figure or table shows it."""
    name, comma, rest = forecaster.partition(",")
    return NAMES.get(name, name) + comma + rest
