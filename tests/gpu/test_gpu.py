"""What only a GPU can show: `make test-gpu`. No part of `make test`, which runs everywhere and skips nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import write_data_set
from torch import distributed

from sa2net.anatomy import CLASS_NAMES
from sa2net.artifacts import DataBounds, ModelInfo, Normalisation, Range
from sa2net.config import Config, LossConfig, ModelConfig, Precision, TrainConfig
from sa2net.data.framing import Grey
from sa2net.data.layout import Case, read_cases
from sa2net.data.pictures import read_scan
from sa2net.errors import DeviceError
from sa2net.inference.device import resolve_device, resolve_precision
from sa2net.inference.predictor import Predictor
from sa2net.model.backbone import synchronised
from sa2net.model.losses import build_loss
from sa2net.model.network import build
from sa2net.training.capacity import with_batch_size
from sa2net.training.checkpoint import CheckpointStore
from sa2net.training.loop import Fitted, fit
from sa2net.training.ranks import ALONE
from sa2net.training.schedule import with_epochs

pytestmark = pytest.mark.gpu

SETTINGS = [
    "train.epochs=4",
    "train.validate_every=2",
    "train.warmup_epochs=1",
    "train.sweep_width=48",
    "train.batch_size=4",
    "train.augment.crop_height=64",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.model.dropout=0",
    "train.model.predictor.dropout=0",
    "train.device=cuda",
    "train.init_from=",
    "train.precision=float32",
]
"""Without dropout, whose random numbers differ between devices."""


def settings(*more: str) -> TrainConfig:
    return Config.load(None, [*SETTINGS, *more]).train


@pytest.fixture(scope="module", autouse=True)
def _a_gpu() -> None:
    """A GPU is a demand here: without one this fails, and does not skip."""
    resolve_device("cuda")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Case]]:
    root = write_data_set(tmp_path_factory.mktemp("gpu") / "data", train=8, val=2, test=2)
    return {split: list(read_cases(root, (split,))) for split in ("train", "val", "test")}


def info(cfg: TrainConfig) -> ModelInfo:
    return ModelInfo(
        model=cfg.model,
        class_names=CLASS_NAMES,
        normalisation=Normalisation(mean=60.0, std=50.0),
        sweep_width=cfg.sweep_width,
        spacing_mm=(),
        bounds=DataBounds(sweep_width=Range(low=0, high=1000), area={}, grey={}),
        data_md5="0" * 32,
        params={},
    )


class Rows:
    """Keeps what an observer is told."""

    def __init__(self, until: int = 0) -> None:
        self.rows: list[Mapping[str, float]] = []
        self.until = until

    def epoch_ended(self, row: Mapping[str, float]) -> None:
        self.rows.append(row)
        if len(self.rows) == self.until:
            raise KeyboardInterrupt

    def validated(self, *_: object) -> None:
        pass


def train(cfg: TrainConfig, cases: dict[str, list[Case]], *, store: Path | None = None, until: int = 0) -> Fitted:
    """Train; with `store` the epochs are kept there, with `until` it is interrupted after so many."""
    kept = None if store is None else CheckpointStore(store, "key")
    if kept is not None:
        kept.folder.mkdir(exist_ok=True)
    return fit(cfg, info(cfg), cases["train"], cases["val"], checkpoints=kept, observer=Rows(until), progress=False)


@pytest.fixture(scope="module")
def whole(cases: dict[str, list[Case]]) -> Fitted:
    """A training on the GPU in float32."""
    return train(settings(), cases)


def losses(fitted: Fitted) -> list[float]:
    return [row["loss_total"] for row in fitted.history]


def test_gpu_and_cpu_follow_the_same_curve(whole: Fitted, cases: dict[str, list[Case]]) -> None:
    on_cpu = train(settings("train.device=cpu"), cases)
    assert losses(whole)[0] == pytest.approx(losses(on_cpu)[0], rel=2e-3)  # TensorFloat-32 rounds to 10 bits
    assert losses(whole) == pytest.approx(losses(on_cpu), rel=0.05)
    assert losses(whole)[-1] < 0.95 * losses(whole)[0]


@pytest.mark.parametrize(
    ("option", "first", "all_"),
    [
        ("train.precision=bfloat16", 0.02, 0.15),
        ("train.precision=float16", 0.02, 0.15),
        ("train.compile=true", 0.005, 0.1),
        ("train.recompute=true", 0.005, 0.1),
        ("train.workers=2", 0.002, 0.05),
    ],
)
def test_an_option_of_speed_or_memory_changes_little(
    whole: Fitted, cases: dict[str, list[Case]], option: str, first: float, all_: float
) -> None:
    fitted = train(settings(option), cases)
    assert losses(fitted)[0] == pytest.approx(losses(whole)[0], rel=first)
    assert losses(fitted) == pytest.approx(losses(whole), rel=all_)


def test_averaged_weights_are_kept_for_any_machine(cases: dict[str, list[Case]]) -> None:
    fitted = train(settings("train.average_decay=0.9", "train.accumulate=2"), cases)
    assert fitted.best_dice > 0
    assert all(value.device.type == "cpu" for value in fitted.weights.values())


def test_an_interrupted_training_goes_on(whole: Fitted, cases: dict[str, list[Case]], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(settings(), cases, store=tmp_path, until=2)
    fitted = train(settings(), cases, store=tmp_path)
    assert len(fitted.history) == len(whole.history)
    # Sums on a GPU have no fixed order: bit-equal trainings are a promise of the CPU.
    assert losses(fitted) == pytest.approx(losses(whole), rel=0.05)


def test_predictions_of_gpu_and_cpu_agree(whole: Fitted, cases: dict[str, list[Case]]) -> None:
    cfg = settings()
    masks: dict[tuple[str, str], list[Grey]] = {}
    runs: list[tuple[str, Precision]] = [("cpu", "float32"), ("cuda", "float32"), ("cuda", "auto")]
    for name, precision in runs:
        device = torch.device(name)
        network = build(cfg.model)
        network.load_state_dict(whole.weights)
        predict = Predictor(
            network.to(device), info(cfg), flip=True, device=device, precision=resolve_precision(precision, device)
        )
        masks[name, precision] = [predict(read_scan(case.scan), case.spacing_mm) for case in cases["test"]]
    expected = np.concatenate([mask.ravel() for mask in masks["cpu", "float32"]])
    for key, least in ((("cuda", "float32"), 0.999), (("cuda", "auto"), 0.99)):
        assert (np.concatenate([mask.ravel() for mask in masks[key]]) == expected).mean() > least


@contextmanager
def little_memory(share: float) -> Iterator[None]:
    """This process may take so large a share of the GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_batch_size_0_takes_what_the_gpu_holds(cases: dict[str, list[Case]]) -> None:
    limit = 64
    assert with_batch_size(settings("train.batch_size=0"), ALONE, limit).batch_size == limit  # crops of an epoch
    large = settings("train.batch_size=0", "train.augment.crop_height=512", "train.augment.crop_width=512")
    with little_memory(0.05):
        held = with_batch_size(large, ALONE, 4096).batch_size
    assert 1 <= held < 4096
    assert with_batch_size(large, ALONE, 4096).batch_size > held
    cfg = with_epochs(with_batch_size(settings("train.batch_size=0"), ALONE, 16), 16)
    assert len(train(cfg, cases).history) == cfg.epochs


def test_too_little_memory_names_the_settings_that_need_less(cases: dict[str, list[Case]]) -> None:
    cfg = settings("train.batch_size=8", "train.augment.crop_height=1024", "train.augment.crop_width=1024")
    with little_memory(0.01), pytest.raises(DeviceError, match=r"memory is too small") as raised:
        train(cfg, cases)
    assert "train.batch_size=4 train.accumulate=2" in str(raised.value)
    assert "train.recompute=true" in str(raised.value)


@pytest.mark.parametrize(
    "backbone",
    ["resnet50", "swin_tiny_patch4_window7_224", "convnextv2_tiny", "efficientnet_b0", "vit_small_patch14_dinov2"],
)
def test_backbones_train_in_mixed_precision(backbone: str) -> None:
    torch.manual_seed(0)
    network = build(ModelConfig(backbone=backbone, channels=64)).to("cuda").to(memory_format=torch.channels_last)
    picture = torch.randn(2, 1, 224, 160, device="cuda").to(memory_format=torch.channels_last)
    mask = torch.randint(0, 4, (2, 224, 160), device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = network(picture)
    build_loss(LossConfig())(logits, mask)["total"].backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, over the library that several GPUs use."""
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("nccl")
def test_synchronised_batch_norm_of_one_process_is_batch_norm() -> None:
    torch.manual_seed(0)
    network = build(ModelConfig(channels=16, dropout=0.0)).to("cuda")
    picture = torch.randn(4, 1, 64, 96, device="cuda")
    torch.manual_seed(1)
    plain = network(picture).final
    torch.manual_seed(1)
    together = synchronised(network)(picture).final
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())
    torch.testing.assert_close(together, plain, rtol=2e-2, atol=2e-2)
