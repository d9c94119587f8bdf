"""The same drawn pictures in every published format: all of it is read, and says the same of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scene_files import write_every_kind

from llava_grounding.markup import parse
from llava_grounding.scenes.records import DrawnScenes
from llava_grounding.train.batching.mixture import Mixture
from llava_grounding.train.batching.source_kinds import open_dataset
from llava_grounding.train.batching.sources import check_sources, open_sources


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, object]]]:
    """Three scenes and the sources of them."""
    root = tmp_path_factory.mktemp("kinds")
    return root, write_every_kind(root, count=3)


def test_nothing_is_wrong_with_any_kind(written: tuple[Path, dict[str, dict[str, object]]]) -> None:
    root, sources = written
    told: list[str] = []
    assert check_sources(list(sources.values()), root, told.append), told
    left_out = [line.strip() for line in told if "left out" in line]
    # GVC's format has no way to say that an answer is grounded but names nothing.
    assert [line.partition(":")[0] for line in left_out] == ["left out, grounded without phrases"]


def test_masks_and_boxes_are_those_that_were_drawn(written: tuple[Path, dict[str, dict[str, object]]]) -> None:
    root, sources = written
    drawn = {record.id: record for record in DrawnScenes(3)}
    for kind in ("custom", "coco", "coco_panoptic", "refcoco", "gvc"):
        for record in open_dataset(sources[kind], root):
            truth = drawn[record.id.removesuffix(".png").partition("#")[0]]
            wanted = {tuple(np.round(thing.box_xyxy, 3)): index for index, thing in enumerate(truth.instances)}
            for index, thing in enumerate(record.instances):
                place = wanted[tuple(np.round(thing.box_xyxy, 3))]
                mask, true_mask = record.load_mask(index), truth.load_mask(place)
                assert mask is not None
                assert true_mask is not None
                assert np.array_equal(mask, true_mask), kind
                assert thing.category == truth.instances[place].category


def test_boxes_of_phrases_are_those_that_were_drawn(written: tuple[Path, dict[str, dict[str, object]]]) -> None:
    root, sources = written
    (images,) = {len(list((root / folder).iterdir())) for folder in ("images", "flickr")}
    assert images == 3
    for record, truth in zip(open_dataset(sources["flickr30k"], root), DrawnScenes(3), strict=True):
        (caption,) = record.grounded_captions
        ours, theirs = parse(caption.text), parse(truth.grounded_captions[0].text)
        assert ours.text == theirs.text
        for found, wanted in zip(caption.targets, truth.grounded_captions[0].targets, strict=True):
            boxes = sorted(record.instances[index].box_xyxy for index in found or ())
            true_boxes = sorted(truth.instances[index].box_xyxy for index in wanted or ())
            assert np.allclose(boxes, true_boxes, atol=0.5)


def test_regions_are_reported_by_expressions(
    written: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    root, sources = written
    drawn = {record.id: record for record in DrawnScenes(3)}
    records = list(open_dataset(sources["region_captions"], root))
    assert records
    for record in records:
        truth = drawn[record.id.removesuffix(".png")]
        told = {(one.text, record.instances[one.targets[0]].box_xyxy) for one in record.expressions}
        alone = [one for one in truth.expressions if len(one.targets) == 1]
        wanted = {(one.text, truth.instances[one.targets[0]].box_xyxy) for one in alone}
        assert told == wanted


def test_all_kinds_together_are_one_stream(written: tuple[Path, dict[str, dict[str, object]]]) -> None:
    root, sources = written
    opened = open_sources(list(sources.values()), root)
    mixture = Mixture(opened, batch_size=len(opened), seed=0)
    filled = [mixture.fill(slot, lambda sample: sample) for slot in mixture.slots(0)]
    assert len(filled) == len(sources)
    assert all(sample.turns and not broken for sample, broken in filled)
