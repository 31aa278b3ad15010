"""One training step of the default settings beside the published ones, with the same backbone: time and memory.

Each measurement is a process of its own, the settings take turns, and the table shows medians and ratios.

    python -m benchmarks.train_step [--backbone resnet50] [--batch 2] [--size 512] [--device cpu]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from sa2net.config import LossConfig, ModelConfig, PredictorConfig, TrainConfig
from sa2net.inference.device import resolve_device, resolve_precision
from sa2net.model.losses import build_loss
from sa2net.model.network import build
from sa2net.model.recompute import recompute_activations
from sa2net.training.schedule import make_optimiser

PUBLISHED = {
    "channels": 512,
    "affinity": "released",
    "logits": "released",
    "predictor": PredictorConfig(embed_dim=128, depth=6, num_heads=8, mask_dim=128).model_dump(),
}
SETTINGS = ("released", "default", "default, recompute")


def settings(name: str, backbone: str) -> tuple[ModelConfig, LossConfig]:
    """The network and loss of a row."""
    if name == "released":
        return ModelConfig.model_validate({"backbone": backbone, **PUBLISHED}), LossConfig(ignored="released")
    return ModelConfig(backbone=backbone), LossConfig()


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the median step, peak memory in MiB, and multiply-adds of a step in T, in this process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = resolve_device(args.device)
    precision = resolve_precision("auto", device)
    model, loss_settings = settings(name, args.backbone)
    network = build(model).to(device)
    network = network.to(memory_format=torch.channels_last)
    if name.endswith("recompute"):
        recompute_activations(network)
    optimiser, loss = make_optimiser(network, TrainConfig()), build_loss(loss_settings)
    picture = torch.randn(args.batch, 1, args.size, args.size, device=device).to(memory_format=torch.channels_last)
    mask = torch.randint(0, 4, (args.batch, args.size, args.size), device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            logits = network(picture)
        loss(logits, mask)["total"].backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for _ in range(args.steps + 1):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    with FlopCounterMode(display=False) as counter:
        step()
    return {"seconds": statistics.median(seconds[1:]), "peak": peak, "work": counter.get_total_flops() / 2e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="side of the crops, px")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each process, after one for warming up")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each setting")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--one", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    for _ in range(args.rounds):
        for name in SETTINGS:
            command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--one", name]
            rows[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    base = medians["released"]
    print(
        f"{args.backbone}, {args.batch} x {args.size} x {args.size}, {args.device}; memory of the whole process on a CPU"
    )
    print(f"{'setting':20}{'s a step':>10}{'ratio':>8}{'MiB':>8}{'ratio':>8}{'T multiply-adds':>17}")
    for name, row in medians.items():
        ratios = (row["seconds"] / base["seconds"], row["peak"] / base["peak"])
        print(f"{name:20}{row['seconds']:10.2f}{ratios[0]:8.2f}{row['peak']:8.0f}{ratios[1]:8.2f}{row['work']:17.3f}")


if __name__ == "__main__":
    main()
