"""Group C: whole inferences by the converted checkpoint and the real engine, from image and words to the answer.

Text takes part as its code points. What the original does to show a result (shares of the longer side, nearest pixels)
is repeated here; our own answer, which knows the rounded content size, is held to it within a pixel of the canvas.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from group_a import NOTHING_FOUND_SIZE
from joined import LANGUAGE_WEIGHTS, read, released_settings, write_released
from ledger import Ledger, Table
from PIL import Image
from recording import Json, check_files, load, read_cases
from torch import Tensor

from llava_grounding.convert.official import convert_official
from llava_grounding.geometry import Letterbox, box_cxcywh_to_xyxy
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.model.outputs import GrounderOutput, VisualPromptOutput
from llava_grounding.processing import conversation
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.regions import encode_prompts
from llava_grounding.processing.sentencepiece import SentencePieceTokenizer
from llava_grounding.processing.transcript import Transcript
from llava_grounding.structures import GroundedAnswer, Message, Region, VisualPrompt

CASE_TABLE = Table(
    compared={
        "mapper.image": "E1",
        "mapper.image_clip": "P",
        "mapper.input_ids": "E",
        "vision_tower_features": "F",
        "projected_image_features": "F",
        "visual_prompt.llm_features": "F",
        "visual_prompt.ious": "F",
        "visual_prompt.masks": "L",
        "inputs_embeds": "F",
        "step_hidden": "F",
        "step_logits": "L",
        "output_ids": "E",
        "text.*": "E",
        "seg_hidden": "F",
        "seg_model.topk_indices": "E",
        "seg_model.pred_logits": "L",
        "seg_model.pred_boxes": "F",
        "out.matched_index.{i}": "E",
        "out.boxes.{i}": "F",
        "out.mask_logits.{i}": "L",
        "out.masks.{i}": "B",
        "post.boxes_original_xyxy_norm.{i}": "F",
        "post.masks_original.{i}": "B",
        "answer.boxes.{i}": "R",
    },
    inputs=(
        "in.original_image_hwc_uint8",
        "visual_prompt.points_input",
        "attention_mask",  # all ones, and not passed on
        "mapper.labels",  # of training
        "mapper.padding_mask",  # all zeros, and not used
    ),
    optional=("step_logits", "visual_prompt.masks"),
)
WORDS_TABLE = Table(compared={"tokenizer.*": "E", "prompt.*": "E", "coordinates.*": "P"})
_NEEDED = {"cases.json", "llm_config.json", LANGUAGE_WEIGHTS, "tokenizer_fixture.json", "prompts.json"}
_MAY_BE_THERE = ("prompt_coordinates.json", "checkpoint_keys.json")
_IMAGE_IN_IDS = -200


@dataclass(frozen=True)
class Reference:
    """The converted checkpoint."""

    chat: GroundedChat
    config: Json
    """The recording's own description of it."""

    @property
    def processor(self) -> LlavaGroundingProcessor:
        """Its two doors."""
        return self.chat.processor

    @property
    def tokens(self) -> SentencePieceTokenizer:
        """Its text."""
        tokens = self.processor.tokens
        assert isinstance(tokens, SentencePieceTokenizer)
        return tokens


def check_group(folder: Path, ledger: Ledger) -> None:
    """Compare the words and every whole inference of the folder."""
    cases = read_cases(folder)
    optional = {name for name in _MAY_BE_THERE if (folder / name).is_file()}
    if not check_files(folder, ledger, _NEEDED | optional | {case["file"] for case in cases}):
        return
    with tempfile.TemporaryDirectory() as place:
        reference = converted(folder, Path(place))
        recorded, ours = compare_words(folder, reference)
        ledger.compare_file("texts", recorded, ours, WORDS_TABLE)
        for case in cases:
            tensors = load(folder, case["file"])
            if ledger.require(tensors, CASE_TABLE.inputs[:1], case["file"]):
                found = run_case(reference, case, tensors)
                ledger.compare_file(case["file"], tensors | recorded_answer(case, tensors), found, CASE_TABLE)


def converted(folder: Path, place: Path) -> Reference:
    """The small release of this recording, converted and loaded, with the faults of the original's demo."""
    source = write_released(folder, place / "released")
    convert_official(source, place / "ours", released_settings(folder), demo_quirks=True)
    return Reference(GroundedChat.from_pretrained(place / "ours", device="cpu"), read(folder, "llm_config.json"))


def compare_words(folder: Path, reference: Reference) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tokenizer cases, prompts and drawn regions: what was recorded, and ours."""
    recorded: dict[str, Tensor] = {}
    ours: dict[str, Tensor] = {}
    tokens = reference.tokens
    for number, case in enumerate(read(folder, "tokenizer_fixture.json")["cases"]):
        text, end = case["text"].removesuffix("</s>"), [tokens.ids.eos] * case["text"].endswith("</s>")
        recorded[f"tokenizer.{number}.ids"] = torch.tensor(case["ids"])
        ours[f"tokenizer.{number}.ids"] = torch.tensor([tokens.ids.bos, *tokens.encode_marked(text), *end])
        recorded[f"tokenizer.{number}.text"] = code_points(case["decode_skip_special"])
        ours[f"tokenizer.{number}.text"] = code_points(tokens.decode(case["ids"]))
    for case in read(folder, "prompts.json"):
        words = [[said["value"] for said in turn] for turn in case["turns"]]
        messages = dialogue([*words[:-1], words[-1][:1]])
        recorded[f"prompt.{case['name']}"] = torch.tensor(case["input_ids"])
        ours[f"prompt.{case['name']}"] = prompt_ids(reference, messages, [False] * len(words))
    if (folder / "prompt_coordinates.json").is_file():
        for number, case in enumerate(read(folder, "prompt_coordinates.json")):
            recorded[f"coordinates.{number}"] = torch.tensor(case["points"])
            ours[f"coordinates.{number}"] = drawn_region(case, reference.config["detector_image_size"])
    return recorded, ours


def dialogue(turns: Sequence[Sequence[str]], prompts: Sequence[VisualPrompt] = ()) -> list[Message]:
    """Recorded turns as messages; prompts belong to the last question."""
    messages = []
    for number, turn in enumerate(turns, start=1):
        question = turn[0].replace("<image>", "").strip()  # the original puts the image before everything
        messages.append(Message("user", question, tuple(prompts) if number == len(turns) else ()))
        messages += [Message("assistant", answer) for answer in turn[1:]]
    return messages


def prompt_ids(reference: Reference, messages: Sequence[Message], grounded: Sequence[bool]) -> Tensor:
    """Our ids as the original writes them: one number for the image, the percent sign for a region."""
    size = reference.config["detector_image_size"]
    encoded = reference.processor.encode_conversation(messages, grounded, Letterbox.fit((size, size), (size, size)))
    ids, written = reference.tokens.ids, []
    for token in encoded.input_ids:
        if token != ids.image:
            written.append(reference.tokens.percent if token == ids.region else token)
        elif not written or written[-1] != _IMAGE_IN_IDS:
            written.append(_IMAGE_IN_IDS)
    return torch.tensor(written)


def drawn_region(case: Json, canvas: int) -> Tensor:
    """The box of what was drawn: its pixels' mean for a click, their bounds for a box."""
    top, bottom, left, right = case["drawn_rect_y0y1x0x1"]
    bounds = left, top, right - 1, bottom - 1  # of pixel coordinates
    if case["mode"] == "Click":
        prompt = VisualPrompt.click((bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2)
    else:
        prompt = VisualPrompt.box(*bounds)
    letterbox = Letterbox.fit((case["width"], case["height"]), (canvas, canvas))
    return torch.from_numpy(encode_prompts([prompt], letterbox).boxes_cxcywh_norm)


class Watch:
    """Keeps what methods take and give while the block runs: `calls[name]` is a list of (arguments, result)."""

    def __init__(self, **methods: tuple[object, str]) -> None:
        self.calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any], Any]]] = {name: [] for name in methods}
        self._methods = methods
        self._stack = ExitStack()

    def __enter__(self) -> "Watch":
        for name, (owner, method) in self._methods.items():
            self._stack.enter_context(mock.patch.object(owner, method, self._keeping(name, getattr(owner, method))))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def results(self, name: str) -> list[Any]:
        """What was given, call by call."""
        return [result for _, _, result in self.calls[name]]

    def _keeping(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def kept(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            self.calls[name].append((arguments, named, result))
            return result

        return kept


def run_case(reference: Reference, case: Json, recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """One answer of the engine, and everything on the way to it, under the names of the recording."""
    picture = Image.fromarray(recorded["in.original_image_hwc_uint8"].numpy())
    chat = with_threshold(reference, case["matching_threshold"])
    model, encoded = chat.model, chat.processor.encode_image(picture)
    prompts = region_of(case, encoded.letterbox)
    *history, [question] = case["turns"]
    question, suffix = split_suffix(question)
    grounded = bool(suffix)
    with (
        asking_with(suffix),
        Watch(
            tower=(model.vision_tower, "forward"),
            projector=(model.multi_modal_projector, "forward"),
            trunk=(model.language_model, "forward"),
            scores=(model.lm_head, "forward"),
            token=(Transcript, "take_token"),
            ground=(model.grounder, "ground"),
            regions=(model.visual_prompt_encoder, "encode_prompts"),
        ) as watch,
    ):
        answer = chat.conversation(picture, dialogue(history), [False] * len(history)).ask(question, prompts, grounded)
    messages = dialogue([*history, [question + suffix]], prompts)
    return {
        "mapper.image": encoded.canvas.movedim(-1, 0),
        "mapper.image_clip": chat.processor.collate_images([encoded])["pixel_values"][0],
        "mapper.input_ids": prompt_ids(reference, messages, [False] * (len(history) + 1)),
        "vision_tower_features": watch.results("tower")[0],
        "projected_image_features": watch.results("projector")[0],
        "inputs_embeds": watch.calls["trunk"][0][1]["inputs_embeds"],
        "step_hidden": torch.cat([arguments[0] for arguments, _, _ in watch.calls["scores"]]),
        "step_logits": torch.cat(watch.results("scores")),
        "output_ids": torch.tensor([arguments[1] for arguments, _, _ in watch.calls["token"]]),
        "text.output": code_points(answer.raw),
        "text.plain": code_points(answer.text.strip()),
        **{name: value for _, _, result in watch.calls["regions"] for name, value in prompt_features(result).items()},
        **{
            name: value
            for (_, states, _), _, output in watch.calls["ground"]
            for name, value in grounding(states, output, chat, answer, encoded.letterbox, recorded).items()
        },
    }


def split_suffix(question: str) -> tuple[str, str]:
    """A question and what asks for regions at its end, with the white space before it; the original takes any."""
    found = re.search(rf"\s*{re.escape(conversation.GROUNDING_SUFFIX.strip())}\s*$", question)
    return (question, "") if found is None else (question[: found.start()], found[0].rstrip())


def asking_with(suffix: str) -> AbstractContextManager[object]:
    """Ask for regions in the recorded words while the block runs."""
    return mock.patch.object(conversation, "GROUNDING_SUFFIX", suffix) if suffix else nullcontext()


def with_threshold(reference: Reference, threshold: float) -> GroundedChat:
    """A chat that keeps other queries."""
    processor = reference.processor
    selection = replace(processor.settings.selection, score_threshold=threshold)
    settings = replace(processor.settings, selection=selection)
    return GroundedChat(reference.chat.model, LlavaGroundingProcessor(processor.tokenizer, settings))


def region_of(case: Json, letterbox: Letterbox) -> list[VisualPrompt]:
    """The recorded prompt, relative to the canvas, in pixels of the picture."""
    if case["points"] is None:
        return []
    [box] = letterbox.norm_cxcywh_to_image(np.array(case["points"]))
    if case["mode"] == "Click":
        return [VisualPrompt.click((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)]
    return [VisualPrompt.box(*box)]


def prompt_features(output: VisualPromptOutput) -> dict[str, Tensor]:
    """What the visual prompt encoder gives, under the names of the recording."""
    side = output.mask_logits.shape[-1] * 4
    masks = F.interpolate(output.mask_logits, size=(side, side), mode="bilinear", align_corners=False)
    return {
        "visual_prompt.llm_features": output.region_embeds[0],
        "visual_prompt.ious": output.ious,
        "visual_prompt.masks": masks[0],
    }


def grounding(
    states: Tensor,
    output: GrounderOutput,
    chat: GroundedChat,
    answer: GroundedAnswer,
    letterbox: Letterbox,
    recorded: dict[str, Tensor],
) -> dict[str, Tensor]:
    """What every phrase keeps, in the original's order of queries and with its stand-ins, and how it shows that.

    It takes phrases for which nothing was found out of what it shows; where the recording has them no more either, the
    others are numbered anew.
    """
    ours = {
        "seg_hidden": states,
        "seg_model.topk_indices": output.topk_indices,
        "seg_model.pred_logits": output.phrase_logits,
        "seg_model.pred_boxes": output.boxes_cxcywh_norm,
    }
    shown: list[np.ndarray] = []
    selections = chat.processor.select(output, 0, states.shape[1])
    numbered = sum(name.startswith("post.boxes") for name in recorded)
    left = [phrase for phrase, kept in enumerate(selections) if len(kept.query_index) or numbered == len(selections)]
    for phrase, kept in enumerate(selections):
        order = kept.query_index.argsort()
        boxes = box_cxcywh_to_xyxy(kept.boxes_cxcywh_norm[order])
        logits = torch.from_numpy(kept.mask_logits[order])
        masks, regions = logits > 0, answer_boxes(answer.phrases[phrase].regions, order, letterbox)
        shown.append(boxes / longer_sides(letterbox))
        if not len(order):
            boxes, regions = np.zeros((1, 4), np.float32), torch.zeros(1, 4)
            masks = torch.zeros(1, NOTHING_FOUND_SIZE, NOTHING_FOUND_SIZE, dtype=torch.bool)
        ours |= {
            f"out.matched_index.{phrase}": torch.from_numpy(kept.query_index[order]),
            f"out.boxes.{phrase}": torch.from_numpy(boxes),
            f"out.mask_logits.{phrase}": logits,
            f"out.masks.{phrase}": masks,
        }
        if phrase in left:
            place = left.index(phrase)
            ours |= {
                f"post.boxes_original_xyxy_norm.{place}": torch.from_numpy(boxes / longer_sides(letterbox)),
                f"post.masks_original.{place}": nearest_pixels(masks, letterbox),
                f"answer.boxes.{place}": regions,
            }
    return ours | {"text.boxes": code_points(with_boxes(answer, shown).strip())}


def longer_sides(letterbox: Letterbox) -> np.ndarray:
    """The original's shares of the canvas that the picture has, as (x, y, x, y); rounding of its size left out."""
    width, height = letterbox.image_size_wh
    return np.tile([width / max(width, height), height / max(width, height)], 2)


def nearest_pixels(masks: Tensor, letterbox: Letterbox) -> Tensor:
    """Masks as large as the picture, the original's way."""
    width, height = letterbox.image_size_wh
    side = max(width, height)
    return F.interpolate(masks[None].float(), size=(side, side), mode="nearest")[0, :, :height, :width] > 0


def answer_boxes(regions: Sequence[Region], order: np.ndarray, letterbox: Letterbox) -> Tensor:
    """The boxes of our answer, best first, put in the order of queries; shares of the picture."""
    boxes = np.array([region.box_xyxy for region in regions]).reshape(-1, 4) / np.tile(letterbox.image_size_wh, 2)
    return torch.from_numpy(boxes[order] if len(order) == len(boxes) else boxes)


def with_boxes(answer: GroundedAnswer, boxes: Sequence[np.ndarray]) -> str:
    """The plain text with the boxes of every phrase that has some behind it, as the original's evaluation writes it."""
    text, done = "", 0
    for phrase, found in zip(answer.phrases, boxes, strict=True):
        rows = [",".join(str(round(float(value), 3)) for value in row) for row in found]
        text += answer.text[done : phrase.span[1]] + (f"[{';'.join(rows)}]" if rows else "")
        done = phrase.span[1]
    return text + answer.text[done:]


def recorded_answer(case: Json, recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the case's JSON says of the answer."""
    shown = case.get("formatted", {"text": case["output_text"]})
    texts = {"text.output": code_points(case["output_text"]), "text.plain": code_points(shown["text"].strip())}
    if "text_boxes" in shown:
        texts["text.boxes"] = code_points(shown["text_boxes"].strip())
    boxes = {
        name.replace("post.boxes_original_xyxy_norm", "answer.boxes"): value.clamp(0, 1)
        for name, value in recorded.items()
        if name.startswith("post.boxes")
    }
    return texts | boxes


def code_points(text: str) -> Tensor:
    """A text as numbers."""
    return torch.tensor([ord(character) for character in text])
