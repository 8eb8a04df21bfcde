"""Experiments as data: each TOML file here says which forecasters are fitted to what, and which option is varied."""

from poco.studies import steps
from poco.studies.definition import Study, load, names
from poco.studies.study import cells, plot, run, write_csv
from poco.studies.tables import meaning, table

__all__ = ["Study", "cells", "load", "meaning", "names", "plot", "run", "steps", "table", "write_csv"]
