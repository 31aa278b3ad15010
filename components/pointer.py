"""Pointer: which data set a run is of. Never cached, so that a recurring run sees the data of its day.

Its output is a text, and the cache of `fetch` keys on that text: unchanged data are not fetched again.
"""

from kfp import dsl


@dsl.component(base_image="python", install_kfp_package=False)
def pointer(address: str, settings: dict, defaults: dict) -> str:
    """Give the text of a `data.dvc`, from the text itself or from an address in the store that `fetch` pulls from."""
    from sa2net.artifacts import handover
    from sa2net.config import FetchConfig, as_section
    from sa2net.data.store.pull import read_pointer

    handover.begin()
    cfg = as_section(FetchConfig, defaults, settings)
    return read_pointer(address, endpoint_url=cfg.endpoint_url, region=cfg.region)
