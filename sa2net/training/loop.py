"""The training loop: model, data, optimiser, schedule, epochs, validation, checkpoints."""

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX
from sa2net.artifacts import ModelInfo
from sa2net.config import TrainConfig
from sa2net.data.dataset import CropDataset, EpochBatches, FramedScan, derived_seed, frame_case
from sa2net.data.framing import Grey, WorkingScale
from sa2net.data.layout import Case
from sa2net.data.pictures import read_mask, read_scan
from sa2net.data.stream import PhantomStream
from sa2net.errors import DataError
from sa2net.inference.device import resolve_device, resolve_precision, set_threads
from sa2net.inference.predictor import Predictor
from sa2net.model.backbone import synchronised
from sa2net.model.losses import build_loss
from sa2net.model.network import build
from sa2net.model.recompute import recompute_activations
from sa2net.training.averaging import Averaged
from sa2net.training.checkpoint import (
    CheckpointStore,
    Tensors,
    TrainingState,
    decode,
    optimiser_tensors,
    restore_optimiser,
)
from sa2net.training.failures import explained
from sa2net.training.ranks import ALONE, Ranks, check_batch
from sa2net.training.schedule import learning_rate, make_optimiser

logger = logging.getLogger(__name__)
T = TypeVar("T")
_MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Observer(Protocol):
    """Who is told how a training goes."""

    def epoch_ended(self, row: Mapping[str, float]) -> None:
        """Losses, Dice per class where validated, learning rate and throughput of one epoch."""

    def validated(self, case: Case, scan: Grey, truth: Grey, prediction: Grey, epoch: int) -> None:
        """One validation scan with its masks; called for the first scans of each validation."""


@dataclass(frozen=True)
class Fitted:
    """The outcome: best weights by validation Dice, and the rows of all epochs.

    `start_dice` is the validation Dice of the weights that the training started from; None from scratch.
    """

    weights: Tensors
    history: list[dict[str, float]]
    best_dice: float
    best_epoch: int
    start_dice: float | None = None


def fit(
    cfg: TrainConfig,
    info: ModelInfo,
    train_cases: Sequence[Case],
    val_cases: Sequence[Case],
    *,
    checkpoints: CheckpointStore | None,
    observer: Observer | None,
    initial: Tensors | None = None,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> Fitted:
    """Train a network from its settings, or go on where a killed training stopped.

    In several processes each trains on its part of every batch; loss, decisions and weights are the same in all.

    Args:
        cfg: The train section.
        info: What the model folder will say: normalisation, working scale.
        train_cases: Cases that are learnt from.
        val_cases: Cases that choose the best epoch; of other subjects.
        checkpoints: Where the state after each epoch is kept; locked by the caller. None but in the main process.
        observer: Told after each epoch. None but in the main process.
        initial: Weights to start from; asked for in the main process only.
        progress: Show a progress bar.
        ranks: The processes that train together.

    Raises:
        ConfigError: The processes cannot share the batch equally.
        DataError: A scan cannot be read, or the loss became NaN.
        DeviceError: The device cannot be used, or its memory is too small.
    """
    check_batch(cfg.batch_size, ranks.count)
    # First of all, so that no rank can fail before the main one has its lock and its run.
    content = ranks.broadcast(checkpoints.newest() if checkpoints else b"")
    device = resolve_device(cfg.device)
    precision = resolve_precision(cfg.precision, device)
    set_threads(cfg.threads)
    state = decode(content) if content else TrainingState()
    if state.epoch >= cfg.epochs or state.stopped:
        return _outcome(state)
    torch.manual_seed(derived_seed(cfg.seed, "weights"))
    with explained(cfg, ranks.count):
        # Convolutions are a little faster this way, on CPU and GPU alike.
        network = fresh_network(cfg, ranks, device).to(memory_format=torch.channels_last)
    if initial is not None:
        try:
            network.load_state_dict(initial)
        except RuntimeError as error:
            raise DataError(
                f"the weights of {cfg.init_from} do not fit its own network",
                evidence=" ".join(str(error).split())[:300],
                action="Name a whole model folder with train.init_from, or leave it empty to train from scratch.",
            ) from error
    loss_function = build_loss(cfg.loss)
    optimiser = make_optimiser(network, cfg)

    working = WorkingScale(info.sweep_width, (info.spacing_mm[0], info.spacing_mm[1]) if info.spacing_mm else None)
    waiting, first = Waiting(), state.epoch
    drawn = waiting.on(_scans_of_epochs(cfg, train_cases, working, first, progress=progress and ranks.main))
    crops = CropDataset(
        next(drawn),
        info.normalisation,
        cfg.augment,
        crops_per_scan=cfg.crops_per_scan,
        seed=cfg.seed,
    )
    batches = DataLoader(
        crops,
        batch_sampler=EpochBatches(crops, cfg.batch_size, ranks.share),
        num_workers=cfg.workers,
        prefetch_factor=cfg.prefetch if cfg.workers else None,
        pin_memory=device.type == "cuda",  # so that copies to the GPU wait for nothing
    )
    validation = [(case, read_scan(case.scan), read_mask(case.mask)) for case in val_cases] if ranks.main else []

    AcceleratorState._reset_state(reset_partial_state=True)  # a process may train twice with different settings
    GradientState._reset_state()
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=_MIXED[precision])
    with explained(cfg, ranks.count):
        # With several ranks, the main one's weights for all.
        model, optimiser_ = accelerator.prepare(network, optimiser)
        averaged = Averaged(network, cfg.average_decay)
    predictor = Predictor(averaged.network, info, device=device, precision=precision)

    if state.epoch:
        logger.info("going on after epoch %d of %d", state.epoch, cfg.epochs)
        network.load_state_dict(state.network)
        restore_optimiser(optimiser, state.optimiser)
        averaged.restore(state.average)
        if accelerator.scaler is not None and state.scaler:
            accelerator.scaler.load_state_dict(state.scaler)

    elif initial is not None:
        state.start_dice = _validate(predictor, validation, None, 0)["val_dice_mean"]
        logger.info("%s: validation Dice %.3f before the first step", cfg.init_from, state.start_dice)

    if cfg.compile:
        model = torch.compile(model)
    steps = len(batches)
    with tqdm(
        total=cfg.epochs * steps,
        initial=state.epoch * steps,
        unit="step",
        desc="train",
        disable=not (progress and ranks.main),
        mininterval=1.0,
    ) as bar:
        while state.epoch < cfg.epochs and not state.stopped:
            epoch = state.epoch
            started, waited = time.perf_counter(), waiting.seconds
            if epoch > first:
                crops.scans = next(drawn)
            crops.epoch = epoch
            torch.manual_seed(derived_seed(cfg.seed, "dropout", epoch, ranks.index))
            model.train()
            sums: dict[str, torch.Tensor] = {}
            for index, (picture, mask) in enumerate(waiting.on(batches)):
                whole = min(cfg.batch_size, len(crops) - index * cfg.batch_size)
                rate = learning_rate(cfg, epoch + index / steps)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                with explained(cfg, ranks.count):
                    with accelerator.autocast():
                        logits = model(picture.to(device, memory_format=torch.channels_last, non_blocking=True))
                    parts = loss_function(*ranks.gather(logits, mask.to(device, non_blocking=True), whole))
                    # Each rank has the gradient of its own part; what is averaged over the ranks must be their sum.
                    accelerator.backward(parts["total"] * (ranks.count / accumulated(cfg, index, steps)))
                    if (index + 1) % cfg.accumulate == 0 or index + 1 == steps:
                        if cfg.clip_norm:
                            accelerator.clip_grad_norm_(model.parameters(), cfg.clip_norm)
                        optimiser_.step()
                        optimiser_.zero_grad()
                        averaged.step(network)
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().double()
                if bar.update():  # it is drawn once a second: only then is the GPU waited for
                    bar.set_postfix(
                        epoch=epoch + 1,
                        loss=f"{sums['total'].item() / (index + 1):.3f}",
                        dice=f"{state.best_dice:.3f}" if state.best else "-",
                        refresh=False,
                    )
            losses = {f"loss_{name}": value.item() / steps for name, value in sums.items()}
            seconds, waited = time.perf_counter() - started, waiting.seconds - waited
            row = {"epoch": float(epoch + 1), "learning_rate": rate} | losses
            if not np.isfinite(row["loss_total"]):
                raise DataError(
                    "the loss is not a number any more",
                    evidence=f"epoch {epoch + 1}, learning rate {rate:.2g}",
                    action="Lower train.learning_rate, or set train.precision to float32.",
                )
            state.epoch = epoch + 1
            if state.epoch % cfg.validate_every == 0 or state.epoch == cfg.epochs:
                dice = _validate(predictor, validation, observer, state.epoch) if observer else {}
                row |= ranks.numbers_of_main(dice)
                _keep_best(state, averaged.network, row["val_dice_mean"], cfg)
            state.history.append(row)
            state.network = {name: value.detach() for name, value in network.state_dict().items()}
            state.optimiser = optimiser_tensors(optimiser)
            state.average = averaged.state()
            state.scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
            if checkpoints:
                checkpoints.save(state)
            if observer:
                speed = {"crops_per_second": len(crops) / seconds, "share_waited": waited / seconds}
                observer.epoch_ended(row | speed)
    return _outcome(state)


class Waiting:
    """How long a trainer has waited for what it learns from."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time that each takes to come is added."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            yield item


def accumulated(cfg: TrainConfig, index: int, steps: int) -> int:
    """How many steps share the update that step `index` of an epoch belongs to; the last update may have fewer."""
    first = index - index % cfg.accumulate
    return min(cfg.accumulate, steps - first)


def fresh_network(cfg: TrainConfig, ranks: Ranks, device: torch.device) -> nn.Module:
    """A network with fresh weights. Those of the main process are what all start from."""
    network: nn.Module = build(cfg.model if ranks.main else cfg.model.model_copy(update={"pretrained": False}))
    if cfg.recompute:
        recompute_activations(network)
    # On a CPU each process normalises with the statistics of its own part of the batch.
    return synchronised(network) if ranks.count > 1 and device.type == "cuda" else network


def _scans_of_epochs(
    cfg: TrainConfig, cases: Sequence[Case], working: WorkingScale, first: int, *, progress: bool
) -> Iterator[Sequence[FramedScan]]:
    """What is learnt from in each epoch from `first` on: always the same scans, or new phantoms."""
    if cfg.stream.scans:
        return PhantomStream(cfg.stream, working, seed=cfg.seed).epochs(first)
    bar = tqdm(cases, desc="read scans", unit="scan", disable=not progress, leave=False)
    return itertools.repeat([frame_case(case, working) for case in bar])


def _validate(
    predictor: Predictor, validation: Sequence[tuple[Case, Grey, Grey]], observer: Observer | None, epoch: int
) -> dict[str, float]:
    """Dice per class and their mean, over the validation scans at their own size."""
    dice = {item.name: [] for item in FOREGROUND}  # type: dict[str, list[float]]
    for case, scan, truth in validation:
        prediction = predictor(scan, case.spacing_mm)
        valid = truth != IGNORE_INDEX
        for item in FOREGROUND:
            predicted, true = (prediction == item.id) & valid, truth == item.id
            if predicted.any() or true.any():
                dice[item.name].append(2.0 * float((predicted & true).sum()) / float(predicted.sum() + true.sum()))
        if observer:
            observer.validated(case, scan, truth, prediction, epoch)
    means = {f"val_dice_{name}": float(np.mean(values)) for name, values in dice.items() if values}
    return means | {"val_dice_mean": float(np.mean(list(means.values())))}


def _keep_best(state: TrainingState, network: nn.Module, dice: float, cfg: TrainConfig) -> None:
    """Keep the weights of the best validation, and count the validations since then."""
    if dice > state.best_dice:
        state.best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        state.best_dice, state.best_epoch, state.stale = dice, state.epoch, 0
        return
    state.stale += 1
    state.stopped = bool(cfg.patience) and state.stale >= cfg.patience


def _outcome(state: TrainingState) -> Fitted:
    """What the training found; says so where its start was better."""
    if state.start_dice is not None and state.best_dice < state.start_dice:
        logger.warning(
            "no epoch reached the validation Dice of the weights that it started from: %.4f, and they had %.4f; "
            "compare both on scans that chose nothing before you use what came out",
            state.best_dice,
            state.start_dice,
        )
    return Fitted(state.best, state.history, state.best_dice, state.best_epoch, state.start_dice)
