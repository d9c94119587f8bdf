"""Recordings that say the same in another way than those kept: how a question ends, which rows are grounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import group_c
import group_e
import pytest
import torch
from joined import read, sibling
from recording import load, read_cases, read_config
from torch import Tensor
from training_steps import Mapped, Converted, grounding_step

from llava_grounding.geometry import Letterbox
from llava_grounding.structures import Message

HERE = Path(__file__).parent
WORDS, STEPS = HERE / "C_inference", HERE / "E_training_language"
STAGE = "stage2_coco_only"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> group_c.Reference:
    return group_c.converted(WORDS, tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("What? (with grounding)", ("What?", " (with grounding)")),
        ("What?\n(with grounding)", ("What?", "\n(with grounding)")),
        ("What?(with grounding)", ("What?", "(with grounding)")),
        ("What? (with grounding)\n", ("What?", " (with grounding)")),
        ("What?", ("What?", "")),
        ("(with grounding) means what?", ("(with grounding) means what?", "")),
    ],
)
def test_a_question_asks_for_regions_by_its_last_words(question: str, parts: tuple[str, str]) -> None:
    assert group_c.split_suffix(question) == parts


@pytest.mark.parametrize("blank", [" ", "\n", "\n\n"])
def test_the_answer_to_any_wording_is_grounded_and_its_words_are_read_as_they_stand(
    reference: group_c.Reference, blank: str
) -> None:
    (case,) = [case for case in read_cases(WORDS) if case["points"] is not None]
    recorded = load(WORDS, case["file"])
    *history, (question,) = case["turns"]
    worded = question.replace(" (with grounding)", f"{blank}(with grounding)")
    ours = group_c.run_case(reference, {**case, "turns": [*history, [worded]]}, recorded)
    assert "seg_hidden" in ours
    tokens = reference.tokens
    ids = ours["mapper.input_ids"].tolist()
    after = ids[len(ids) - 1 - ids[::-1].index(tokens.percent) :]
    assert tokens.decode(after).endswith(f"why?{blank}(with grounding) ASSISTANT:")
    assert (ids == recorded["mapper.input_ids"].tolist()) == (blank == " ")


def test_a_phrase_without_a_match_takes_the_stand_ins_of_the_original(reference: group_c.Reference) -> None:
    (case,) = read_cases(WORDS)
    recorded = load(WORDS, case["file"])
    ours = group_c.run_case(reference, {**case, "matching_threshold": 0.99}, recorded)
    assert ours["out.matched_index.0"].shape == (0,)
    assert torch.equal(ours["out.boxes.0"], torch.zeros(1, 4))
    assert ours["out.masks.0"].shape == (1, 256, 256)
    assert ours["out.mask_logits.0"].shape[0] == 0
    assert torch.equal(ours["post.boxes_original_xyxy_norm.0"], torch.zeros(1, 4, dtype=torch.float64))
    assert not ours["post.masks_original.0"].any()
    text = "".join(map(chr, ours["text.boxes"].tolist()))
    assert text == "It is a man riding a horse."
    shown = {name: value for name, value in recorded.items() if not name.startswith("post.")}
    again = group_c.run_case(reference, {**case, "matching_threshold": 0.99}, shown)
    assert not any(name.startswith("post.") for name in again)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    chat = group_e.converted(WORDS, tmp_path_factory.mktemp("steps"), side=96)
    return Converted(chat, read_config(sibling(STEPS, "A")))


@pytest.fixture
def mapped(converted: Converted) -> Iterator[dict[str, Mapped]]:
    """The samples, the second of grounded chat with phrases too, which are those of the caption."""
    recorded = load(STEPS, group_e.SAMPLES)
    cases = {name: case for name, case in read(STEPS, "cases.json")["samples"].items() if name != "interactive0"}
    samples = {name: group_e.map_sample(name, case, recorded, converted.chat.processor) for name, case in cases.items()}
    caption = samples["flickr0"]
    samples["coco1"] = replace(caption, case={**caption.case, "grounding_mask": [True, True, True]})
    yield samples
    converted.chat.model.zero_grad(set_to_none=True)


def with_grounding(mapped: dict[str, Mapped], *names: str) -> dict[str, Mapped]:
    """The samples, those of grounded chat with these names alone grounded."""
    return {
        name: replace(sample, case={**sample.case, "grounding": name in names}) if name.startswith("coco") else sample
        for name, sample in mapped.items()
    }


def run(converted: Converted, mapped: dict[str, Mapped], points: dict[str, Tensor]) -> dict[str, Tensor]:
    case: dict[str, Any] = read(STEPS, "cases.json")[STAGE]
    return grounding_step(converted, STAGE, mapped, {**case, "grad_norms": {}}, points)


def test_all_grounded_rows_go_through_the_criterion_together(converted: Converted, mapped: dict[str, Mapped]) -> None:
    both = run(converted, with_grounding(mapped, "coco0", "coco1"), {})
    counts = [len(mapped[name].masks) for name in ("coco0", "coco1")]
    phrases = [2, 3]  # one of the first has no match
    kinds = [name.split(".")[2] for name in both if name.startswith("rand.")]
    assert kinds == ["matcher", "matcher", "mask_loss", "mask_loss"] * 5
    drawn = [value for name, value in both.items() if name.startswith("rand.")]
    apart = []
    for row, name in enumerate(("coco0", "coco1")):
        own: list[Tensor] = []
        for start in range(0, len(drawn), 4):
            first = slice(sum(counts[:row]), sum(counts[: row + 1]))
            own += [drawn[start + row], drawn[start + 2][first], drawn[start + 3][first]]
        points = {f"rand.{n:03d}.{('matcher', 'mask_loss', 'mask_loss')[n % 3]}": v for n, v in enumerate(own)}
        apart.append(run(converted, with_grounding(mapped, name), points))
        for layer in range(5):
            for what in ("query", "target"):
                place = f"match.{2 * layer + row:03d}.{what}"
                assert torch.equal(both[place], apart[row][f"match.{layer:03d}.{what}"])
    assert sum(name.startswith("match.") for name in both) == 2 * 2 * 5
    for name in ("loss_bbox_0", "loss_giou_0", "loss_mask_bce_0", "loss_mask_dice_0", "loss_mask_cls_0"):
        shares = [
            count * (width / max(phrases) if "cls" in name else 1) for count, width in zip(counts, phrases, strict=True)
        ]
        expected = sum(s * one[f"loss.coco.{name}"] for s, one in zip(shares, apart, strict=True)) / sum(counts)
        torch.testing.assert_close(both[f"loss.coco.{name}"], expected, atol=1e-5, rtol=1e-4)


def test_the_recording_says_which_rows_are_grounded(converted: Converted, mapped: dict[str, Mapped]) -> None:
    nothing = run(converted, with_grounding(mapped), {})
    assert {name for name in nothing if name.startswith("loss.")} == {"loss.llava", "loss.loss_total"}
    assert not any(name.startswith(("rand.", "match.")) for name in nothing)


@pytest.mark.parametrize("blank", [" ", "\n"])
def test_a_dialogue_is_read_back_from_its_pieces(converted: Converted, blank: str) -> None:
    processor = converted.chat.processor
    said = [
        ("user", f"What is in the image?{blank}(with grounding)"),
        ("assistant", "A <g_s> red dog <g_e> <seg> is near a <g_s> bus <g_e> <seg> ."),
        ("user", "Where is it?"),
        ("assistant", "Here.\nOr there."),
    ]
    messages = [Message(role, text) for role, text in said]
    text = processor.encode_conversation(messages, [False, False], Letterbox.fit((8, 8), (8, 8)))
    image = processor.tokens.ids.image
    pieces = [
        group_e.IMAGE_PIECE if token == image else processor.tokens.tokenizer.convert_ids_to_tokens(token)
        for token in text.input_ids
    ]
    assert ("<0x0A>" in pieces[pieces.index("with") - 3 :][:3]) == (blank == "\n")
    assert group_e.encode_again(pieces, processor).input_ids == text.input_ids


def test_samples_say_how_large_the_canvas_is() -> None:
    recorded = load(STEPS, group_e.SAMPLES)
    assert group_e.canvas_side(recorded) == 96
    masks = {name: value for name, value in recorded.items() if not name.endswith(".image")}
    assert group_e.canvas_side(masks) == 96
