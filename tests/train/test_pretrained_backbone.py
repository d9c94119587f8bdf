"""Published ImageNet weights fill a backbone, and give the published network's numbers."""

import shutil
import zipfile

import pytest
import torch
import torch.nn.functional as F

from llava_grounding.errors import CheckpointError, ConfigError, MissingExtraError
from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.efficientnet_lite import EfficientNetLiteConfig
from llava_grounding.train import pretrained_backbone
from llava_grounding.train.pretrained_backbone import load_pretrained_backbone, weights_file

# Logits of the first six classes that `efficientnet-lite-pytorch` 0.1.0 gives for `wave()`, in single precision.
PUBLISHED_LOGITS = [-2.14911031, -0.06353185, -0.54873389, -3.63839149, 0.52081978, -0.30295351]


def wave() -> torch.Tensor:
    """An image that needs no file, [1, 3, 96, 128]."""
    place = torch.arange(3 * 96 * 128, dtype=torch.float64).reshape(1, 3, 96, 128)
    return (torch.sin(place * 0.37) * torch.cos(place * 0.011)).float()


def test_logits_are_those_of_the_published_network():
    backbone = build_backbone(EfficientNetLiteConfig()).eval()
    assert load_pretrained_backbone(backbone, "efficientnet_lite0") == len(backbone.state_dict())
    head = torch.load(weights_file("efficientnet_lite0"), weights_only=True)
    with torch.no_grad():
        x = F.conv2d(backbone(wave())[-1], head["_conv_head.weight"])
        norm = [head[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu6(F.batch_norm(x, *norm, eps=1e-3)).mean((2, 3))
        logits = F.linear(x, head["_fc.weight"], head["_fc.bias"])
    torch.testing.assert_close(logits[0, :6], torch.tensor(PUBLISHED_LOGITS), rtol=0, atol=1e-4)
    assert logits[0].topk(3).indices.tolist() == [753, 905, 904]


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match=r"unknown pretrained backbone `efficientnet_lite`; did you mean"):
        load_pretrained_backbone(build_backbone(EfficientNetLiteConfig()), "efficientnet_lite")


def test_weights_of_another_size_are_refused():
    with pytest.raises(ConfigError, match=r"do not fit the backbone of the model, which has other sizes"):
        load_pretrained_backbone(build_backbone(EfficientNetLiteConfig.variant("lite2")), "efficientnet_lite0")


def test_another_backbone_is_refused():
    from transformers import ResNetConfig

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    resnet = build_backbone(ResNetConfig(**sizes, out_features=["stage1", "stage2", "stage3", "stage4"]))
    with pytest.raises(ConfigError, match=r"need a backbone of model_type `efficientnet_lite`"):
        load_pretrained_backbone(resnet, "efficientnet_lite0")


def test_a_missing_package_says_the_line_to_type(monkeypatch):
    monkeypatch.setattr(pretrained_backbone, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"llava-grounding\[train\]"):
        weights_file("efficientnet_lite0")


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    damaged = tmp_path / "weights.pth"
    shutil.copyfile(weights_file("efficientnet_lite0"), damaged)
    with damaged.open("r+b") as file:
        file.truncate(100_000)
    monkeypatch.setattr(pretrained_backbone, "weights_file", lambda name: damaged)
    with pytest.raises(CheckpointError, match=r"`weights\.pth` of `efficientnet_lite0` is damaged"):
        load_pretrained_backbone(build_backbone(EfficientNetLiteConfig()), "efficientnet_lite0")


def test_a_file_whose_records_are_shorter_than_its_tensors_is_refused(monkeypatch, tmp_path):
    short = tmp_path / "weights.pth"
    torch.save(torch.load(weights_file("efficientnet_lite0"), weights_only=True), tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(short, "w") as archive:
        for entry in whole.infolist():
            content = whole.read(entry)
            archive.writestr(entry.filename, content[:8] if entry.filename.endswith("data/0") else content)
    monkeypatch.setattr(pretrained_backbone, "weights_file", lambda name: short)
    with pytest.raises(CheckpointError, match=r"`weights\.pth` of `efficientnet_lite0` is damaged") as caught:
        load_pretrained_backbone(build_backbone(EfficientNetLiteConfig()), "efficientnet_lite0")
    assert "its record data/0 has 8 bytes, but the tensors in it need" in str(caught.value.__cause__)
