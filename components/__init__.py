"""One pipeline component per step: artifact paths in, the step's `run`, metadata out. Logic lives in `sa2net`.

A component imports the standard library and kfp at the top, everything else inside its function: it runs as plain
Python, as a subprocess, in a container and on a cluster, unchanged. It never catches.
"""
