"""Scores, their uncertainty, and the report."""
