"""Tracking of runs, the gate, and the versions of the registered model."""
