"""One training step of the default settings beside the published ones, with the same backbone: time and memory.

Each measurement is a process of its own, the settings take turns, and the table shows medians and ratios. On a GPU
the step runs in bfloat16, also compiled, and is held against the products of large matrices that the same GPU was seen
to make.

    python -m benchmarks.train_step [--backbone resnet50] [--batch 2] [--size 512] [--channels 48] [--device cpu]

A setting that fails is named with the end of what it said, the others are shown, and the command fails.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from sa2net.config import LossConfig, ModelConfig, PredictorConfig, TrainConfig
from sa2net.inference.device import resolve_device, resolve_precision
from sa2net.model.logits import TrainingLogits
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
GPU_SETTINGS = (*SETTINGS, "default, compiled")


def settings(name: str, backbone: str, channels: int) -> tuple[ModelConfig, LossConfig]:
    """The network and loss of a row."""
    if name == "released":
        return ModelConfig.model_validate({"backbone": backbone, **PUBLISHED}), LossConfig(
            kind="released", ignored="released"
        )
    return ModelConfig(backbone=backbone, channels=channels), LossConfig()


def peak_rate(device: torch.device, precision: torch.dtype, size: int = 8192) -> float:
    """T multiply-adds a second of products of large square matrices, the median of ten."""
    left, right = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
    seconds = []
    for _ in range(13):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return size**3 / 1e12 / statistics.median(seconds[3:])


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of the median step, peak memory in MiB, multiply-adds of a step in T, and share of the GPU's peak."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = resolve_device(args.device)
    precision = resolve_precision("auto", device)
    model, loss_settings = settings(name, args.backbone, args.channels)
    network = build(model).to(device)
    network = network.to(memory_format=torch.channels_last)
    if name.endswith("recompute"):
        recompute_activations(network)
    optimiser, loss = make_optimiser(network, TrainConfig()), build_loss(loss_settings)
    picture = torch.randn(args.batch, 1, args.size, args.size, device=device).to(memory_format=torch.channels_last)
    mask = torch.randint(0, 4, (args.batch, args.size, args.size), device=device)

    def step(trained: Callable[[torch.Tensor], TrainingLogits]) -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            logits = trained(picture)
        loss(logits, mask)["total"].backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    trained = torch.compile(network) if name.endswith("compiled") else network
    seconds = []
    for _ in range(args.warm + args.steps):
        started = time.perf_counter()
        step(trained)
        seconds.append(time.perf_counter() - started)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    with FlopCounterMode(display=False) as counter:
        step(network)
    found = {"seconds": statistics.median(seconds[args.warm :]), "peak": peak}
    found |= {"first": seconds[0], "work": counter.get_total_flops() / 2e12}
    if device.type == "cuda":
        found["share"] = found["work"] / found["seconds"] / peak_rate(device, precision)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=512, help="side of the crops, px")
    parser.add_argument("--channels", type=int, default=ModelConfig().channels, help="width of the default's head")
    parser.add_argument("--warm", type=int, default=1, help="steps of each process before the measured ones")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each setting")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--one", choices=GPU_SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    names = GPU_SETTINGS if args.device == "cuda" else SETTINGS
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for _ in range(args.rounds):
        for name in names:
            if name in failed:
                continue
            command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--one", name]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                failed[name] = done.stderr[-2000:]
            else:
                rows[name].append(json.loads(done.stdout))
    device = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(f"{args.backbone}, {args.batch} x {args.size} x {args.size}, default {args.channels} channels, {device}")
    shown = {name: found for name, found in rows.items() if found}
    if shown:
        print_table(shown, args)
    for name, said in failed.items():
        print(f"\n{name} failed:\n{said}")
    if failed:
        sys.exit(1)


def print_table(rows: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Medians and their ratios to the published settings (to the first that ran, where these failed); memory is that of the whole process on a CPU."""
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()
    }
    base = medians.get("released", next(iter(medians.values())))
    on_gpu = args.device == "cuda"
    head = f"{'setting':20}{'ms a step':>10}{'ratio':>8}{'MiB':>8}{'ratio':>8}{'T multiply-adds':>17}"
    print(head + (f"{'crops a s':>11}{'share of peak':>15}{'first step, s':>15}" if on_gpu else ""))
    for name, row in medians.items():
        ratios = (row["seconds"] / base["seconds"], row["peak"] / base["peak"])
        line = f"{name:20}{1000 * row['seconds']:10.1f}{ratios[0]:8.2f}{row['peak']:8.0f}{ratios[1]:8.2f}{row['work']:17.3f}"
        if on_gpu:
            line += f"{args.batch / row['seconds']:11.1f}{row['share']:15.3f}{row['first']:15.1f}"
        print(line)


if __name__ == "__main__":
    main()
