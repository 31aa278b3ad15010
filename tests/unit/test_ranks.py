"""What several processes of a training agree on, without starting any: parts of a batch, refusals, reasons of an end."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from sa2net.artifacts import Normalisation
from sa2net.config import AugmentConfig, Config, ModelConfig, TrainConfig
from sa2net.data.dataset import CropDataset, EpochBatches, EpochSampler, FramedScan
from sa2net.errors import ConfigError, DataError, DeviceError, NegativeAnswerError, Sa2NetError, StorageError
from sa2net.model.backbone import synchronised
from sa2net.model.network import TrainingLogits, build
from sa2net.training.launch import _reason, launch
from sa2net.training.ranks import (
    ALONE,
    KINDS,
    LostRankError,
    Ranks,
    check_batch,
    check_gpus,
    describe,
    joined,
    restore,
)


@pytest.fixture
def crops() -> CropDataset:
    """7 scans, one crop each."""
    blank = FramedScan(torch.zeros(1, 64, 64, dtype=torch.uint8), torch.zeros(64, 64, dtype=torch.uint8))
    cfg = AugmentConfig(crop_height=64, crop_width=64)
    return CropDataset([blank] * 7, Normalisation(mean=0.0, std=1.0), cfg, crops_per_scan=1, seed=3)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (2, 4), (4, 4), (3, 6), (2, 2)])
def test_the_parts_of_all_ranks_are_the_batches_of_one_process(crops: CropDataset, count: int, batch_size: int) -> None:
    order = list(EpochSampler(crops))
    batches = [order[start : start + batch_size] for start in range(0, 7, batch_size)]
    parts = [list(EpochBatches(crops, batch_size, Ranks(index, count).share)) for index in range(count)]
    assert len(EpochBatches(crops, batch_size, Ranks(0, count).share)) == len(batches)
    for step, batch in enumerate(batches):
        of_ranks = [part[step] for part in parts]
        assert len({len(part) for part in of_ranks}) == 1, "a rank with fewer crops would leave the others waiting"
        joined_again = [index for part in of_ranks for index in part]
        assert joined_again[: len(batch)] == batch
        assert set(joined_again[len(batch) :]) <= {batch[-1]}


def test_one_process_hands_through_what_it_has() -> None:
    logits, mask = TrainingLogits(*torch.rand(4, 2, 4, 3, 3)), torch.zeros(2, 12, 12)
    assert ALONE.gather(logits, mask, 2) == (logits, mask)
    assert ALONE.broadcast(b"abc") == b"abc"
    assert ALONE.numbers_of_main({"dice": 0.1 + 0.2}) == {"dice": 0.1 + 0.2}


def test_a_batch_is_for_all_processes_together() -> None:
    check_batch(6, 3)
    with pytest.raises(ConfigError, match=r"train\.batch_size is 6, for 4 processes. Set .* multiple of 4"):
        check_batch(6, 4)
    with pytest.raises(ConfigError, match="processes is 0"):
        check_batch(6, 0)


def test_processes_on_a_cpu_need_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    check_gpus("cpu", 16)
    check_gpus("cuda", 1)  # whether there is that one is checked where the device is taken
    with pytest.raises(DeviceError, match="needs a GPU of its own"):
        check_gpus("cuda", torch.cuda.device_count() + 2)


@pytest.mark.parametrize("backbone", ["resnet10t", "efficientnet_b0"])
def test_synchronised_batch_norms_change_neither_names_nor_parameters_nor_the_output(backbone: str) -> None:
    torch.manual_seed(0)
    network = build(ModelConfig(backbone=backbone, channels=16)).eval()
    picture = torch.rand(1, 1, 64, 64)
    parameters, names, before = list(network.parameters()), list(network.state_dict()), network(picture)
    changed = synchronised(network)
    assert all(one is other for one, other in zip(changed.parameters(), parameters, strict=True))
    assert list(changed.state_dict()) == names
    assert torch.equal(changed(picture), before)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in changed.modules())
    batch_norms = [module for module in changed.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(module, nn.SyncBatchNorm) for module in batch_norms)


@pytest.mark.parametrize("kind", [*KINDS, LostRankError])
def test_an_error_is_the_same_in_another_process(kind: type[Sa2NetError]) -> None:
    error = kind("what", evidence="7 of 9", action="Do this.")
    told = restore(json.loads(json.dumps(describe(error))))
    assert type(told) is kind
    assert str(told) == str(error)


def test_an_error_of_a_kind_of_its_own_arrives_as_the_nearest_known() -> None:
    class OwnError(DataError):
        pass

    assert type(restore(describe(OwnError("what", action="Do this.")))) is DataError


def failed(rank: int, exit_code: int, folder: Path, error: Sa2NetError | None = None) -> ProcessFailure:
    file = folder / f"{rank}.json"
    if error:
        more = {"py_callstack": "", "timestamp": "1"}
        file.write_text(json.dumps({"message": {"message": "", "extraInfo": more}, "sa2net": describe(error)}))
    return ProcessFailure(local_rank=rank, pid=1, exitcode=exit_code, error_file=str(file))


LOST = LostRankError("another process is gone", action="Start again.")


def test_who_says_why_is_believed_before_who_was_killed_or_lost_another(tmp_path: Path) -> None:
    failures = {
        0: failed(0, 4, tmp_path, LOST),
        2: failed(2, -signal.SIGTERM, tmp_path),
        1: failed(1, 5, tmp_path, StorageError("the disk is full", action="Free some.")),
    }
    error = _reason(failures, 3)
    assert type(error) is StorageError
    assert str(error) == "the disk is full. Free some."


def test_of_those_that_say_nothing_the_first_that_ended_is_the_cause(tmp_path: Path) -> None:
    failures = {
        0: failed(0, 4, tmp_path, LOST),
        2: failed(2, -signal.SIGKILL, tmp_path),
        1: failed(1, 128 + signal.SIGTERM, tmp_path),  # ended by torchrun
    }
    assert "process 2 of 3 (numbered from 0) ended by SIGKILL" in str(_reason(failures, 3))


def test_an_exit_code_without_a_reason_keeps_its_meaning(tmp_path: Path) -> None:
    assert type(_reason({1: failed(1, 3, tmp_path)}, 2)) is DataError
    assert type(_reason({1: failed(1, 1, tmp_path)}, 2)) is NegativeAnswerError
    internal = _reason({1: failed(1, 70, tmp_path)}, 2)
    assert not isinstance(internal, Sa2NetError)
    assert "exit code 70" in str(internal)


def test_only_lost_ones_say_what_they_saw(tmp_path: Path) -> None:
    assert str(_reason({1: failed(1, 4, tmp_path, LOST)}, 2)) == str(LOST)


@pytest.fixture
def half_an_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_ERROR_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    yield


def test_half_an_environment_is_refused(half_an_environment: None) -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT not set"), joined("cpu"):
        pass


def test_a_process_of_a_training_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="under torchrun"):
        launch(["-c", "pass"], 2)


def test_the_settings_file_of_the_processes_holds_the_same_settings(tmp_path: Path) -> None:
    cfg = TrainConfig(learning_rate=1e-5, weight_decay=0.1 + 0.2, seed=2**63 - 1, init_from="models:/a b@c")
    (tmp_path / "params.yaml").write_text(Config(train=cfg).render())
    assert Config.load(tmp_path / "params.yaml").train == cfg
