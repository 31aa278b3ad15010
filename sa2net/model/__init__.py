"""The SA2Net network in plain torch, and its losses."""
