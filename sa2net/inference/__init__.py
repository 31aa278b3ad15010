"""From a model folder and a scan to a mask."""
