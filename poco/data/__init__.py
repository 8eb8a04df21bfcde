"""Recordings, readers, splits, windows and simulation."""
