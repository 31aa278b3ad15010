"""Scans and masks: layout, checks, synthetic scans, storage."""
