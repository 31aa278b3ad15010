"""One contract for every backbone and every rival: sizes, strides, gradients, weights on disk, a portable program."""

import copy
import os
import subprocess
import sys
from typing import get_args

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from sa2net.config import LossConfig, ModelConfig, PredictorConfig
from sa2net.config.network import Architecture
from sa2net.errors import ConfigError
from sa2net.model.backbone import TimmBackbone, build_backbone
from sa2net.model.logits import STRIDES, TrainingLogits
from sa2net.model.losses import build_loss
from sa2net.model.network import build
from sa2net.model.recompute import recompute_activations

SMALL = ModelConfig(channels=16, dropout=0.0, predictor=PredictorConfig(embed_dim=16, depth=1, num_heads=2, mask_dim=8))
FAMILIES = (
    "resnet10t",
    "resnet18",
    "seresnet18",
    "resnest14d",
    "res2net50_14w_8s",
    "regnety_002",
    "densenet121",
    "dla34",
    "convnext_atto",
    "convnextv2_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "ghostnet_050",
    "hrnet_w18_small",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_ns_224",
    "maxvit_rmlp_pico_rw_256",
    "poolformer_s12",
    "davit_tiny",
    "mambaout_femto",
    "deit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "released_swin_tiny",
)
LARGE = (
    "resnet50",
    "resnet50c",
    "resnet101",
    "swin_base_patch4_window7_224",
    "swin_large_patch4_window12_384",
    "vit_base_patch14_dinov2",
    "convnextv2_base",
    "maxvit_tiny_tf_224",
)
DEEP = ("resnet50", "resnet50c", "resnet101", "swin_base_patch4_window7_224")
RIVALS = tuple(name for name in get_args(Architecture) if name != "sa2net")


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def _settings(name: str) -> ModelConfig:
    if name in RIVALS:
        return ModelConfig(architecture=name, channels=16, dropout=0.0)
    return SMALL.model_copy(update={"backbone": name})


def _every_parameter_learns(network: nn.Module) -> None:
    """Every parameter moves within four steps, and every gradient is finite."""
    loss = build_loss(LossConfig())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    x, mask = torch.randn(2, 1, 64, 96), torch.randint(0, 4, (2, 64, 96))
    largest = dict.fromkeys((name for name, _ in network.named_parameters()), 0.0)
    for _ in range(4):  # what starts behind a zero moves in the second step, stochastic depth skips a block at times
        optimiser.zero_grad()
        loss(network(x), mask)["total"].backward()
        optimiser.step()
        missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert not missing, f"without a gradient, which breaks training in several processes: {missing}"
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
        for name, parameter in network.named_parameters():
            largest[name] = max(largest[name], float(parameter.grad.abs().max()))
    still = [name for name, value in largest.items() if value == 0]
    assert not still, f"gradient zero: {still}"


@pytest.mark.parametrize("name", [*FAMILIES, *RIVALS, *(pytest.param(name, marks=pytest.mark.long) for name in DEEP)])
def test_every_network_keeps_the_contract(name):
    network = build(_settings(name))
    maps = network(torch.randn(2, 1, 64, 96))
    assert isinstance(maps, TrainingLogits)
    assert maps.final.shape[:2] == maps.auxiliary.shape[:2] == (2, 4)
    _every_parameter_learns(network)
    network.eval()
    with torch.no_grad():
        for size in ((33, 75), (96, 64)):
            logits = network(torch.randn(1, 1, *size))
            assert logits.shape == (1, 4, *size)
            assert logits.isfinite().all()
        x = torch.randn(1, 1, 64, 64)
        before = network(x)
        network.drop_training_heads()
        assert torch.equal(network(x), before)
    assert not any(name.startswith("auxiliary") or "l_classifier" in name for name in network.state_dict())


@pytest.mark.parametrize("name", FAMILIES + LARGE)
def test_maps_lie_at_the_four_strides(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        rows, columns = backbone.multiple * 2, backbone.multiple
        maps = backbone(torch.randn(1, 1, rows, columns))
    assert backbone.multiple % STRIDES[-1] == 0
    assert [tuple(level.shape) for level in maps] == [
        (1, channels, rows // stride, columns // stride)
        for channels, stride in zip(backbone.channels, STRIDES, strict=True)
    ]


EXPORTED = ("resnet10t", "swin_tiny_patch4_window7_224", "deit_tiny_patch16_224", "smp/unet")
SLOW_TO_TRACE = (
    "resnest14d",
    "res2net50_14w_8s",
    "densenet121",
    "ghostnet_050",
    "swinv2_cr_tiny_ns_224",
    "davit_tiny",
    "mambaout_femto",
    "released_swin_tiny",
)
EXPORTED_TOO = tuple(name for name in FAMILIES if name not in EXPORTED + SLOW_TO_TRACE)


@pytest.mark.parametrize(
    "name",
    [*EXPORTED, *(pytest.param(name, marks=pytest.mark.long) for name in EXPORTED_TOO)],
)
def test_a_network_becomes_a_program_that_gives_the_same(name):
    network = build(_settings(name)).eval()
    x = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        program = torch.export.export(network, (x,))
        torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "levit_128", "beit_base_patch16_224", "nest_tiny"])
def test_a_network_that_cannot_serve_is_refused_with_a_reason(name):
    with pytest.raises(ConfigError, match=r"one size only|maps have strides"):
        TimmBackbone(name)


@pytest.mark.parametrize("architecture", ["sa2net", "smp/unet"])
def test_a_network_without_feature_maps_is_refused(architecture):
    with pytest.raises(ConfigError, match=r"crossvit_9_240 cannot be the backbone"):
        build(ModelConfig(architecture=architecture, backbone="crossvit_9_240"))


# Pretrained weights


def _saved_weights(name: str, path, **arguments) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = {key: value.contiguous() for key, value in timm.create_model(name, **arguments).state_dict().items()}
    safetensors.torch.save_file(state, path)
    return state


@pytest.mark.parametrize("architecture", ["sa2net", "smp/fpn"])
def test_weights_come_from_a_file_and_colours_are_summed(architecture, tmp_path, caplog):
    file = tmp_path / "model.safetensors"
    state = _saved_weights("resnet10t", file)
    cfg = SMALL if architecture == "sa2net" else ModelConfig(architecture=architecture)
    cfg = ModelConfig(**{**cfg.model_dump(), "pretrained": True, "pretrained_file": str(file)})
    with caplog.at_level("INFO", logger="sa2net"):
        network = build(cfg)
    weights = {
        name.rpartition("model." if "model." in name else "features.")[2]: value
        for name, value in network.state_dict().items()
    }
    assert torch.equal(weights["layer2.0.conv1.weight"], state["layer2.0.conv1.weight"])
    torch.testing.assert_close(weights["conv1.0.weight"], state["conv1.0.weight"].sum(1, keepdim=True))
    assert "licence apache-2.0" in caplog.text


def test_pretrained_patches_of_another_size_are_resampled(tmp_path):
    file = tmp_path / "model.safetensors"
    state = _saved_weights("vit_small_patch14_dinov2", file, img_size=70)
    backbone = TimmBackbone("vit_small_patch14_dinov2", pretrained=True, weights=file)
    patch = backbone.features.state_dict()["model.patch_embed.proj.weight"]
    assert patch.shape == (384, 1, 16, 16)
    assert torch.equal(
        backbone.features.state_dict()["model.blocks.3.mlp.fc1.weight"], state["blocks.3.mlp.fc1.weight"]
    )


def test_weights_that_cannot_be_had_are_refused_with_a_way_out(tmp_path):
    pickled, other = tmp_path / "model.bin", tmp_path / "model.safetensors"
    torch.save({}, pickled)
    safetensors.torch.save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(ConfigError, match=r"they may hold code"):
        TimmBackbone("resnet18", pretrained=True, weights=pickled)
    with pytest.raises(ConfigError, match=r"there is no such file"):
        TimmBackbone("resnet18", pretrained=True, weights=tmp_path / "gone.safetensors")
    with pytest.raises(ConfigError, match=r"Take the file that belongs to this network"):
        TimmBackbone("resnet18", pretrained=True, weights=other)
    with pytest.raises(ConfigError, match=r"timm lists none"):
        TimmBackbone("cs3darknet_s", pretrained=True)


@pytest.mark.parametrize("architecture", ["sa2net", "smp/unet"])
def test_without_a_network_the_way_out_is_a_file(architecture):
    """In a process of its own whose only proxy is a closed port."""
    cfg = f"ModelConfig(architecture={architecture!r}, backbone='resnet18', pretrained=True)"
    code = f"from sa2net.config import ModelConfig; from sa2net.model.network import build; build({cfg})"
    closed = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    environment = (
        os.environ | closed | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "NO_PROXY": "", "no_proxy": ""}
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "ConfigError: no pretrained weights for resnet18" in ended.stderr
    assert "set model.pretrained_file to its model.safetensors" in ended.stderr


def test_settings_of_other_architectures_are_refused():
    with pytest.raises(ValueError, match=r"affinity would have no effect with architecture smp/unet"):
        ModelConfig(architecture="smp/unet", affinity="released")
    with pytest.raises(ValueError, match=r"backbone would have no effect with architecture unet"):
        ModelConfig(architecture="unet", backbone="resnet18")
    with pytest.raises(ValueError, match=r"pretrained is false"):
        ModelConfig(pretrained_file="model.safetensors")


def test_a_decoder_that_does_not_fit_its_backbone_is_refused():
    with pytest.raises(ConfigError, match=r"cannot be the backbone of smp/deeplabv3"):
        build(ModelConfig(architecture="smp/deeplabv3", backbone="pvt_v2_b0"))
    with pytest.raises(ConfigError, match=r"maxvit_rmlp_pico_rw_256 cannot be the backbone of smp/unet: .*window"):
        build(ModelConfig(architecture="smp/unet", backbone="maxvit_rmlp_pico_rw_256"))  # windows of one size


# Recomputed activations


@pytest.mark.parametrize(
    ("architecture", "backbone"),
    [
        ("sa2net", "resnet10t"),
        ("sa2net", "swin_tiny_patch4_window7_224"),
        ("sa2net", "efficientnet_b0"),
        ("sa2net", "deit_tiny_patch16_224"),
        ("smp/unet", "resnet10t"),
        ("unet", "resnet10t"),
    ],
)
def test_recomputed_activations_change_no_gradient_and_no_statistic(architecture, backbone):
    torch.manual_seed(0)
    plain = build(ModelConfig(architecture=architecture, backbone=backbone, channels=16))
    recomputing = copy.deepcopy(plain)
    recompute_activations(recomputing)
    picture, mask = torch.randn(2, 1, 64, 64), torch.randint(0, 4, (2, 64, 64))
    for network in (plain, recomputing):
        torch.manual_seed(1)
        build_loss(LossConfig())(network(picture), mask)["total"].backward()
    for ours, theirs in zip(plain.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recomputing.state_dict()[name]), name
    assert torch.equal(plain.eval()(picture), recomputing.eval()(picture))
