"""POCO and its parts as torch modules."""

from poco.nn.config import POCOConfig
from poco.nn.model import POCO
from poco.nn.vocabulary import SessionSpec

__all__ = ["POCO", "POCOConfig", "SessionSpec"]
