"""Objectives: pure functions of per-token log-probabilities."""
