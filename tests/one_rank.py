"""One process of a training, as torchrun starts it, with what a test needs changed around it.

    python -m torch.distributed.run ... tests/one_rank.py ARGUMENTS.json

Batch-norm statistics are frozen on demand, so that a crop's logits do not depend on the crops beside it and the loss of
several processes can be compared with that of one. A rank may be given a data set of its own.
"""

import json
import os
import sys
from pathlib import Path

from torch import nn

from sa2net.config import Config, ModelConfig
from sa2net.model.network import build
from sa2net.steps import train
from sa2net.training import loop


def build_frozen(cfg: ModelConfig) -> nn.Module:
    """The network of a configuration, whose batch norms stay as they are made."""
    network = build(cfg)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return network


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    if given["frozen"]:
        loop.build = build_frozen
    places = {name: Path(place) for name, place in given["places"].items()}
    places["data"] = Path(given["data_of_rank"].get(os.environ["RANK"], places["data"]))
    train.run(Config.load(None, given["settings"]).train, **places, progress=False)


if __name__ == "__main__":
    main()
