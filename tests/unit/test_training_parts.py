"""Crops, schedule and checkpoints: what makes a training repeatable."""

from pathlib import Path

import pytest
import torch
from factories import write_data_set
from torch import nn

from sa2net.anatomy import IGNORE_INDEX
from sa2net.artifacts import Normalisation
from sa2net.config import AugmentConfig, ModelConfig, TrainConfig
from sa2net.data.dataset import CropDataset, EpochSampler, FramedScan, derived_seed, frame_case
from sa2net.data.framing import WorkingScale
from sa2net.data.layout import read_cases
from sa2net.errors import ConfigError, DeviceError
from sa2net.model.network import build
from sa2net.model.recompute import recompute_activations
from sa2net.training.averaging import Averaged
from sa2net.training.capacity import largest_batch, with_batch_size
from sa2net.training.checkpoint import (
    CheckpointStore,
    TrainingState,
    decode,
    encode,
    optimiser_tensors,
    restore_optimiser,
)
from sa2net.training.failures import explained, out_of_memory
from sa2net.training.loop import accumulated
from sa2net.training.ranks import ALONE
from sa2net.training.schedule import learning_rate, make_optimiser, with_epochs

NORMALISATION = Normalisation(mean=100.0, std=50.0)


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> list[FramedScan]:
    root = write_data_set(tmp_path_factory.mktemp("set") / "data", train=2, test=1)
    return [frame_case(case, WorkingScale(48)) for case in read_cases(root, ("train",))]


def crops(framed: list[FramedScan], **changes: object) -> CropDataset:
    cfg = AugmentConfig(crop_height=64, crop_width=64).model_copy(update=changes)
    return CropDataset(framed, NORMALISATION, cfg, crops_per_scan=3, seed=5)


def test_a_crop_depends_on_seed_epoch_and_index_alone(framed: list[FramedScan]) -> None:
    first, second = crops(framed), crops(framed)
    torch.manual_seed(1)
    one = first[4]
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one, second[4], strict=True))
    second.epoch = 1
    assert not torch.equal(one[0], second[4][0])
    assert not torch.equal(one[0], first[2][0])  # the same scan, another crop


def test_drawing_a_crop_leaves_the_global_generator_alone(framed: list[FramedScan]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    crops(framed)[0]
    assert torch.equal(before, torch.get_rng_state())


def test_scan_and_mask_move_together(framed: list[FramedScan]) -> None:
    # A scan whose grey is its own mask: after any geometry the two still agree.
    mask = framed[0].mask
    scan = FramedScan((mask * 80)[None], mask)
    plain = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "noise": 0.0, "blur": 0.0}
    dataset = CropDataset(
        [scan],
        Normalisation(mean=0.0, std=80.0),
        AugmentConfig(crop_height=64, crop_width=64, **plain),
        crops_per_scan=20,
        seed=0,
    )
    for index in range(20):
        picture, moved = dataset[index]
        inside = moved != IGNORE_INDEX
        error = (picture[0][inside] - moved[inside].float()).abs()
        assert error.median() < 0.05
        assert (error > 1.01).float().mean() < 0.08  # interpolated borders only


def test_crops_have_the_asked_size_also_of_small_scans(framed: list[FramedScan]) -> None:
    picture, mask = crops(framed, crop_height=512, crop_width=256)[0]
    assert picture.shape == (1, 512, 256)
    assert mask.shape == (512, 256)
    assert (mask == IGNORE_INDEX).any()
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, IGNORE_INDEX}


def test_an_epoch_visits_every_crop_once_in_a_new_order(framed: list[FramedScan]) -> None:
    dataset = crops(framed)
    first = list(EpochSampler(dataset))
    dataset.epoch = 1
    second = list(EpochSampler(dataset))
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second


def test_seeds_of_different_parts_differ() -> None:
    seeds = {derived_seed(0, "crop", epoch, index) for epoch in range(50) for index in range(50)}
    assert len(seeds) == 2500
    assert derived_seed(1, 23) != derived_seed(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_training_from_weights_has_a_smaller_rate_unless_one_is_named() -> None:
    scratch, fine = TrainConfig(init_from=""), TrainConfig(init_from="models:/sa2net@champion")
    assert (
        learning_rate(scratch, scratch.warmup_epochs) == make_optimiser(nn.Linear(1, 1), scratch).defaults["lr"] == 2e-3
    )
    assert learning_rate(fine, fine.warmup_epochs) == make_optimiser(nn.Linear(1, 1), fine).defaults["lr"] == 5e-4
    assert learning_rate(fine.model_copy(update={"learning_rate": 0.1}), 1.0) == 0.1


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    cfg = TrainConfig(epochs=10, warmup_epochs=2.0, learning_rate=1.0, schedule="cosine")
    assert learning_rate(cfg, 0.0) == pytest.approx(0.01)
    assert learning_rate(cfg, 1.0) == pytest.approx(0.5)
    assert learning_rate(cfg, 2.0) == pytest.approx(1.0)
    assert learning_rate(cfg, 6.0) == pytest.approx(0.5)
    assert learning_rate(cfg, 10.0) == pytest.approx(0.0)
    poly = cfg.model_copy(update={"schedule": "poly"})
    assert learning_rate(poly, 6.0) == pytest.approx(0.5**0.9)
    assert learning_rate(cfg.model_copy(update={"schedule": "constant"}), 9.9) == 1.0


def test_norms_and_biases_do_not_decay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decaying, steady = make_optimiser(network, TrainConfig(weight_decay=0.3)).param_groups
    assert [parameter.ndim for parameter in decaying["params"]] == [4]
    assert decaying["weight_decay"] == 0.3
    assert steady["weight_decay"] == 0.0
    assert len(steady["params"]) == 3


def a_state(epoch: int) -> TrainingState:
    generator = torch.Generator().manual_seed(epoch)
    tensors = {"a.weight": torch.rand(3, 2, generator=generator), "a.count": torch.tensor(epoch)}
    return TrainingState(
        epoch,
        tensors,
        {"0/exp_avg": torch.rand(3, 2, generator=generator)},
        dict(tensors),
        [{"epoch": 1.0, "loss": 0.1 + epoch}],
        0.5,
        1,
        2,
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "key")
    with store.locked():
        store.save(a_state(3))
        loaded = decode(store.newest())
    want = a_state(3)
    assert loaded.history == want.history
    assert (loaded.epoch, loaded.best_dice, loaded.best_epoch, loaded.stale) == (3, 0.5, 1, 2)
    for group in ("network", "optimiser", "best"):
        got, expected = getattr(loaded, group), getattr(want, group)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, "key")
    with store.locked():
        store.save(a_state(1))
        newest = store.save(a_state(2))
        newest.write_bytes(newest.read_bytes()[:40])
        loaded = decode(store.newest())
    assert loaded.epoch == 1
    assert "cannot be read" in caplog.text


def test_only_the_last_two_are_kept_and_another_key_sees_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "key")
    with store.locked():
        for epoch in range(1, 6):
            store.save(a_state(epoch))
    assert [path.name for path in sorted((tmp_path / "key").glob("*.safetensors"))] == [
        "epoch-000004.safetensors",
        "epoch-000005.safetensors",
    ]
    assert CheckpointStore(tmp_path, "other").newest() == b""


def test_an_optimiser_goes_on_exactly_where_it_was() -> None:
    def after(steps: int, interrupted_at: int) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        cfg = TrainConfig(learning_rate=0.05)
        optimiser = make_optimiser(layer, cfg)
        for step in range(steps):
            if step == interrupted_at:
                saved, weights = (
                    optimiser_tensors(optimiser),
                    {name: value.clone() for name, value in layer.state_dict().items()},
                )
                layer = nn.Linear(4, 3)
                layer.load_state_dict(weights)
                optimiser = make_optimiser(layer, cfg)
                restore_optimiser(optimiser, {name: value.clone() for name, value in saved.items()})
            generator = torch.Generator().manual_seed(step)
            layer(torch.rand(8, 4, generator=generator)).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        return layer.weight.detach()

    assert torch.equal(after(6, -1), after(6, 3))


# Balanced crops, padding


def one_bone(side: int = 256, bone: int = 40) -> FramedScan:
    """A dark scan with one small bone in its middle."""
    mask = torch.zeros(side, side, dtype=torch.uint8)
    mask[(side - bone) // 2 : (side + bone) // 2, (side - bone) // 2 : (side + bone) // 2] = 1
    return FramedScan((mask * 200)[None], mask)


def background_shares(max_class_share: float) -> list[float]:
    cfg = AugmentConfig(crop_height=64, crop_width=64, rotation=0, scale_low=1, scale_high=1)
    cfg = cfg.model_copy(update={"max_class_share": max_class_share})
    dataset = CropDataset([one_bone()], NORMALISATION, cfg, crops_per_scan=60, seed=0)
    return [float((dataset[index][1] == 0).float().mean()) for index in range(60)]


def test_crops_full_of_one_class_are_drawn_again() -> None:
    free, balanced = background_shares(1.0), background_shares(0.75)
    assert sum(share <= 0.75 for share in free) < 12
    assert sum(share <= 0.75 for share in balanced) > 2 * sum(share <= 0.75 for share in free) + 10
    assert max(balanced) <= 1.0  # after ten attempts the last one is taken


def test_what_is_padded_in_is_black_or_mean_grey_and_always_ignored() -> None:
    plain = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "noise": 0.0, "blur": 0.0}
    for fill, grey in (("black", -NORMALISATION.mean / NORMALISATION.std), ("released", 0.0)):
        cfg = AugmentConfig(crop_height=512, crop_width=512, fill=fill, **plain)
        picture, mask = CropDataset([one_bone()], NORMALISATION, cfg, crops_per_scan=1, seed=0)[0]
        padded = mask == IGNORE_INDEX
        assert padded.float().mean() > 0.5
        torch.testing.assert_close(picture[0][padded].median(), torch.tensor(grey))


# Optimiser, averaging, accumulation, memory


def test_released_decay_acts_on_norms_and_biases_too() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = {
        kind: [
            (len(group["params"]), group["weight_decay"])
            for group in make_optimiser(network, TrainConfig(decayed=kind)).param_groups
        ]
        for kind in ("weights", "released")
    }
    assert groups == {"weights": [(1, 0.01), (3, 0.0)], "released": [(4, 0.01)]}


def test_averaged_weights_follow_by_hand_and_through_a_checkpoint() -> None:
    network = nn.BatchNorm1d(1)
    averaged = Averaged(network, 0.75)
    expected = None
    for value in (4.0, 8.0, 0.0):
        nn.init.constant_(network.weight, value)
        network.running_mean.fill_(value)
        averaged.step(network)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert averaged.network.weight.item() == averaged.network.running_mean.item() == expected == 3.75
    state = decode(encode(TrainingState(epoch=1, average=averaged.state())))
    again = Averaged(nn.BatchNorm1d(1), 0.75)
    again.restore(state.average)
    nn.init.constant_(network.weight, 1.0)
    for each in (averaged, again):
        each.step(network)
    assert again.network.weight.item() == averaged.network.weight.item() == 0.75 * 3.75 + 0.25


def test_averaged_weights_of_a_network_that_recomputes_are_its_own() -> None:
    network = build(ModelConfig(channels=16))
    recompute_activations(network)
    averaged = Averaged(network, 0.9)
    averaged.step(network)
    x = torch.randn(1, 1, 64, 64)
    averaged.network.eval()
    with torch.no_grad():
        before = averaged.network(x)
        statistics = [buffer.clone() for buffer in network.buffers()]
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(averaged.network(x), before)
    assert all(torch.equal(*pair) for pair in zip(network.buffers(), statistics, strict=True))


def test_without_an_average_the_network_itself_is_kept() -> None:
    network = nn.Linear(1, 1)
    averaged = Averaged(network, 0.0)
    averaged.step(network)
    assert averaged.network is network
    assert averaged.state() == {}


def test_the_last_update_of_an_epoch_may_have_fewer_steps() -> None:
    cfg = TrainConfig(accumulate=3)
    assert [accumulated(cfg, index, 7) for index in range(7)] == [3, 3, 3, 3, 3, 3, 1]
    assert [accumulated(TrainConfig(), index, 2) for index in range(2)] == [1, 1]


def test_the_largest_batch_is_a_power_of_two_that_fits() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 11:
            raise torch.OutOfMemoryError("too much")

    assert largest_batch(attempt, TrainConfig(), limit=100) == 8
    assert tried == [1, 2, 4, 8, 16]
    assert largest_batch(attempt, TrainConfig(), limit=3) == 2

    def nothing_fits(size: int) -> None:
        raise torch.OutOfMemoryError("0 bytes free")

    with pytest.raises(DeviceError, match=r"0 bytes free.*train\.recompute=true.*crop_height=224"):
        largest_batch(nothing_fits, TrainConfig(), limit=8)


def test_out_of_memory_names_settings_that_need_less() -> None:
    message = str(out_of_memory(TrainConfig(batch_size=8, accumulate=2, recompute=True), RuntimeError("full")))
    assert "train.batch_size=4 train.accumulate=4 (as many crops an update" in message
    assert "train.recompute" not in message
    shared = str(out_of_memory(TrainConfig(batch_size=6), RuntimeError("full"), processes=2))
    assert "train.batch_size" not in shared  # 3 cannot be shared by two processes


def test_memory_of_a_cpu_that_ends_is_a_message_too() -> None:
    with (
        pytest.raises(DeviceError, match=r"this machine's memory is too small.*train\.recompute=true"),
        explained(TrainConfig()),
    ):
        torch.empty(2**55, dtype=torch.float32)


def test_other_errors_of_torch_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match") as raised, explained(TrainConfig(compile=True)):
        torch.zeros(2) + torch.zeros(3)
    assert not isinstance(raised.value, DeviceError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_batch_size_of_what_a_gpu_holds_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"has no GPU"):
        with_batch_size(TrainConfig(batch_size=0), ALONE, 10)
    assert with_batch_size(TrainConfig(batch_size=3), ALONE, 10).batch_size == 3


def test_iterations_become_whole_epochs() -> None:
    cfg = TrainConfig(iterations=160_000, batch_size=4)
    assert with_epochs(cfg, 100).epochs == 6400
    assert with_epochs(cfg, 101).epochs == 6154  # 26 steps an epoch
    assert with_epochs(TrainConfig(iterations=160_000, batch_size=2, accumulate=2), 100).epochs == 6400
    assert with_epochs(TrainConfig(iterations=100, batch_size=2, accumulate=3), 10).epochs == 50  # 5 steps, 2 updates
    assert with_epochs(TrainConfig(epochs=7), 100) == TrainConfig(epochs=7)
    assert TrainConfig.model_validate(with_epochs(cfg, 100).model_dump()).epochs == 6400
    with pytest.raises(ConfigError, match=r"10 iterations are 2 epochs of 16 crops"):
        with_epochs(TrainConfig(iterations=10, warmup_epochs=3), 16)
    with pytest.raises(ValueError, match=r"epochs would have no effect while iterations is set"):
        TrainConfig(iterations=10, epochs=7)
