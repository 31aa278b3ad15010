"""Batch prediction: every scan under an address, in shards that may run side by side and be run again.

`plan` says what is to be done and with which version, `shard` does a part of it, `summary` tells what came of it. They
share nothing but the plan and the results themselves, so that each may run on another machine.
"""
