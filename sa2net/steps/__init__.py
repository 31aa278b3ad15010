"""One module per step of the pipeline; each has one `run(cfg, ...)`."""
