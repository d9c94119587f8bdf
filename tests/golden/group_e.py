"""Group E: training with the language model; samples as the original maps them, forwards of its stages, positions.

Conversations are the recording's, its markers put into our words; everything else is done by the processor, the model
and the losses that train. The weights are those of A, B and C, converted as a release. What is done in a forward is in
`training_steps.py`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from joined import LANGUAGE_WEIGHTS, read, released_settings, sibling, write_released
from ledger import Ledger, Table, as_recorded
from PIL import Image
from recording import Json, check_files, load, read_config
from torch import Tensor
from training_steps import Mapped, Trainee, grounding_step, prompt_step

from llava_grounding.convert.official import convert_official
from llava_grounding.geometry import Letterbox
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.markup import REGION
from llava_grounding.masks import mask_to_box
from llava_grounding.model.outputs import ImageFeatures, ImageMemory
from llava_grounding.polygons import polygons_to_mask
from llava_grounding.processing.processor import EncodedText, LlavaGroundingProcessor
from llava_grounding.processing.sentencepiece import SentencePieceTokenizer
from llava_grounding.structures import Message, VisualPrompt

SAMPLES_TABLE = Table(
    compared={
        "*.input_ids": "E",
        "*.labels": "E",
        "*.image": "E1",
        "*.tower_image": "P",
        "*.image_clip": "P",
        "*.gt_boxes_xyxy": "P",
        "*.gt_masks": "B",
    },
    inputs=("*.original_image_hwc_uint8",),
    optional=("*.image",),
)
STAGE_TABLE = Table(
    compared={
        "spliced.attention_mask": "E",
        "spliced.labels": "E",
        "spliced.inputs_embeds": "F",
        "last_hidden_state": "F",
        "phrase_positions": "E",
        "rand.*": "E",
        "match.{i}.query": "E",
        "match.{i}.target": "E",
        "loss.*": "S2",
        "grad_norms.*": "G",
    },
    optional=("spliced.inputs_embeds", "last_hidden_state", "rand.*"),
)
PROMPT_TABLE = Table(
    compared={
        "targets.boxes_cxcywh": "P",
        "targets.masks": "B",
        "targets.prompt_boxes": "P",
        "targets.prompt_type": "P",
        "rand_like.{i}": "E",
        "rand.*": "E",
        "query.content": "P",
        "query.reference_unsigmoid": "P",
        "query.self_attention_mask": "E",
        "net.*.boxes": "F",
        "net.*.ious": "F",
        "net.*.masks": "L",
        "net.final.obj_features": "F",
        "injected_features": "F",
        "spliced.inputs_embeds": "F",
        "spliced.labels": "E",
        "prompt_positions": "E",
        "loss_unweighted.*": "S2",
        "weight_dict.*": "P",
        "loss.*": "S2",
    },
    inputs=("targets.points_cxcywh", "interactive{i}.*"),
    optional=("rand.*", "net.*.masks", "targets.masks"),
)
POSITIONS_TABLE = Table(
    compared={
        "input_ids": "E",
        "labels_spliced": "E",
        "training_positions": "E",
        "inference_positions": "E",
        "hidden_at_seg_token": "F",
        "hidden_before_seg_token": "F",
        "inference_seg_hidden": "F",
    },
)
SAMPLES, FEATURES = "samples.safetensors", "positions_image_features.safetensors"
STAGES = ("stage1_flickr_ref", "stage2_coco_only")
_IMAGE_IN_IDS = -200
IMAGE_PIECE = "<image feature>"
"""How a recording writes a place of the image among the pieces of a text."""


def check_group(folder: Path, ledger: Ledger) -> None:
    """Compare samples, stages and positions of the folder."""
    cases, positions = read(folder, "cases.json"), read(folder, "positions.json")
    files = {"cases.json", "positions.json", SAMPLES, "stage3_visual_prompt.safetensors"}
    files |= {f"{stage}.safetensors" for stage in STAGES}
    files |= {f"positions_{case['case']}.safetensors" for case in positions}
    own = {FEATURES} if (folder / FEATURES).exists() else set()
    if not check_files(folder, ledger, files | own):
        return
    words = sibling(folder, "C", LANGUAGE_WEIGHTS)
    recorded = load(folder, SAMPLES) | interactive_of(load(folder, "stage3_visual_prompt.safetensors"))
    with tempfile.TemporaryDirectory() as place:
        chat = converted(words, Path(place), canvas_side(recorded))
    trainee = Trainee(chat, read_config(sibling(folder, "A")))
    mapped = {name: map_sample(name, case, recorded, chat.processor) for name, case in cases["samples"].items()}
    compare_samples(mapped, recorded, trainee, ledger)
    for stage in STAGES:
        tensors = load(folder, f"{stage}.safetensors")
        ours = grounding_step(trainee, stage, mapped, cases[stage], tensors)
        numbers = {f"grad_norms.{name}": norm for name, norm in cases[stage]["grad_norms"].items()}
        rows = cases[stage]["phrase_positions_in_spliced_sequence"]
        numbers["phrase_positions"] = [place for row in rows for place in row]
        ledger.compare_file(stage, tensors | as_recorded(numbers), ours, STAGE_TABLE)
        check_losses(stage, cases[stage], ours, ledger)
    compare_prompts(folder, cases, mapped, trainee, ledger)
    for case in positions:
        compare_positions(folder, case, chat, ledger)


def canvas_side(recorded: dict[str, Tensor]) -> int:
    """How large the canvas of the samples is: as wide as their masks."""
    return next(value.shape[2] for name, value in recorded.items() if name.endswith(".gt_masks"))


def converted(words: Path, place: Path, side: int) -> GroundedChat:
    """The small release, converted and loaded, with a canvas as large as that of the samples."""
    source = write_released(words, place / "released")
    convert_official(source, place / "ours", replace(released_settings(words), image_size=side))
    return GroundedChat.from_pretrained(place / "ours", device="cpu")


def interactive_of(stage3: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sample that is recorded beside the stage that it belongs to."""
    return {name: value for name, value in stage3.items() if name.startswith("interactive")}


def map_sample(name: str, case: Json, recorded: dict[str, Tensor], processor: LlavaGroundingProcessor) -> Mapped:
    """One sample through our processor, on a canvas as large as the recorded one."""
    picture = Image.fromarray(recorded[f"{name}.original_image_hwc_uint8"].numpy())
    image = processor.encode_image(picture)
    text = processor.encode_conversation(*messages_of(case), image.letterbox)
    masks = things_of(case, image.letterbox)
    boxes = np.array([mask_to_box(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    return Mapped(image, text, torch.from_numpy(boxes).float(), torch.from_numpy(masks), case)


def messages_of(case: Json) -> tuple[list[Message], list[bool]]:
    """The dialogue, and for each question whether it is grounded: the recorded words say so themselves."""
    turns = case["conversation"]
    messages = []
    for turn in turns[0] if isinstance(turns[0], list) else turns:
        text = turn["value"].replace("<image>", "").strip()
        if turn["from"] == "gpt":
            messages.append(Message("assistant", text))
        else:
            # The original writes a percent sign and a blank, whatever follows.
            anywhere = [VisualPrompt.click(0.5, 0.5)] * text.count("<obj>")
            messages.append(Message("user", text.replace("<obj>", f"{REGION} "), tuple(anywhere)))
    return messages, [False] * (len(messages) // 2)


def things_of(case: Json, letterbox: Letterbox) -> np.ndarray:
    """Masks on the canvas, (n, H, W) bool; corners of the recording are cut down to whole pixels."""
    things = case.get("annotation", {}).get("grounding_info", [])
    masks = np.zeros((len(things), letterbox.canvas_size_wh[1], letterbox.canvas_size_wh[0]), dtype=bool)
    for mask, thing in zip(masks, things, strict=True):
        polygons = [np.floor(letterbox.points_to_canvas(np.reshape(p, (-1, 2)))) for p in thing["segmentation"]]
        mask[:] = polygons_to_mask([polygon.ravel() for polygon in polygons], letterbox.canvas_size_wh)
    return masks


def compare_samples(mapped: dict[str, Mapped], recorded: dict[str, Tensor], trainee: Trainee, ledger: Ledger) -> None:
    """What the mappers give; the sample without a grounding part has only the tower's picture."""
    renamed, ours = {}, {}
    for name, value in recorded.items():
        sample, _, what = name.partition(".")
        plain = what == "image" and value.is_floating_point()
        renamed[f"{sample}.tower_image" if plain else name] = value
    tokens = trainee.chat.processor.tokens
    assert isinstance(tokens, SentencePieceTokenizer)
    for name, sample in mapped.items():
        ids, labels = as_written(sample.text, tokens)
        ours |= {f"{name}.input_ids": torch.tensor(ids), f"{name}.labels": torch.tensor(labels)}
        assert sample.image.tower is not None
        if "annotation" not in sample.case:
            ours[f"{name}.tower_image"] = sample.image.tower
            continue
        ours |= {
            f"{name}.image": sample.image.canvas.movedim(-1, 0),
            f"{name}.image_clip": sample.image.tower,
            f"{name}.gt_boxes_xyxy": sample.boxes_xyxy,
            f"{name}.gt_masks": sample.masks,
        }
    ledger.compare_file(SAMPLES, renamed, ours, SAMPLES_TABLE)


def as_written(text: EncodedText, tokens: SentencePieceTokenizer) -> tuple[list[int], list[int]]:
    """Our ids and labels as the original writes them: one number for the image, the percent sign for a region."""
    ids: list[int] = []
    labels: list[int] = []
    for token, in_loss in zip(text.input_ids, text.loss_mask, strict=True):
        if token == tokens.ids.image:
            if ids and ids[-1] == _IMAGE_IN_IDS:
                continue
            token = _IMAGE_IN_IDS
        ids.append(tokens.percent if token == tokens.ids.region else token)
        labels.append(token if in_loss else -100)
    return ids, labels


def compare_prompts(folder: Path, cases: Json, mapped: dict[str, Mapped], trainee: Trainee, ledger: Ledger) -> None:
    """Stage 3 with its one sample."""
    stage, case = "stage3_visual_prompt", cases["stage3_visual_prompt"]
    tensors = load(folder, f"{stage}.safetensors")
    ours = prompt_step(trainee, mapped["interactive0"], case, tensors)
    weights = {
        f"weight_dict.{name.removeprefix('weight_dict.')}": 0.0 for name in ours if name.startswith("weight_dict.")
    }
    numbers = {name: case["weight_dict"][name.removeprefix("weight_dict.")] for name in weights}
    numbers["prompt_positions"] = case["visual_prompt_positions_in_input_ids"]
    ledger.compare_file(stage, tensors | as_recorded(numbers), ours, PROMPT_TABLE)
    check_losses(stage, case, ours, ledger)


def check_losses(stage: str, case: Json, ours: dict[str, Tensor], ledger: Ledger) -> None:
    """Whether the same losses come back."""
    found = {name.removeprefix("loss.") for name in ours if name.startswith("loss.")}
    if found != set(case["losses"]):
        ledger.problems.append(
            f"other losses than recorded in {stage}: {', '.join(sorted(found ^ set(case['losses'])))}"
        )


def compare_positions(folder: Path, case: Json, chat: GroundedChat, ledger: Ledger) -> None:
    """Which hidden state a phrase uses, in training and in answering."""
    file = f"positions_{case['case']}.safetensors"
    recorded = load(folder, file)
    tokens = chat.processor.tokens
    assert isinstance(tokens, SentencePieceTokenizer)
    text = encode_again(case["tokens"], chat.processor)
    ids, _ = as_written(text, tokens)
    batch = chat.processor.collate_texts([text])
    features = image_features(folder, case["case"])
    nothing = ImageFeatures(features, ImageMemory(torch.zeros(1, 0, 1), (), torch.zeros(1, 1, 1, 1)))
    with torch.no_grad():
        hidden = chat.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], image_features=nothing
        ).last_hidden_state
    states, places = {}, {}
    for way in ("at_seg", "before_seg"):
        chat.model.config.phrase_state = way
        states[way] = chat.model.phrase_states(hidden, batch["input_ids"])[0][0]
        counting = torch.arange(hidden.shape[1], dtype=torch.float32)[None, :, None]
        places[way] = chat.model.phrase_states(counting, batch["input_ids"])[0][0, :, 0]
    ours = {
        "input_ids": torch.tensor(ids),
        "labels_spliced": batch["labels"][0],
        "training_positions": places["at_seg"],
        "inference_positions": places["before_seg"],
        "hidden_at_seg_token": states["at_seg"],
        "hidden_before_seg_token": states["before_seg"],
        "inference_seg_hidden": states["before_seg"],
    }
    numbers = as_recorded({name: case[name] for name in ("training_positions", "inference_positions")})
    ledger.compare_file(file, recorded | numbers, ours, POSITIONS_TABLE)


def encode_again(pieces: Sequence[str], processor: LlavaGroundingProcessor) -> EncodedText:
    """The recorded dialogue, as far as its pieces say what was said, encoded by us."""
    tokens = processor.tokens
    behind_image = len(pieces) - pieces[::-1].index(IMAGE_PIECE)
    turns: list[list[int]] = [[]]
    for token in tokens.tokenizer.convert_tokens_to_ids(list(pieces[behind_image:])):
        turns[-1].append(token)
        if token == tokens.ids.eos:
            turns.append([])
    messages = []
    for turn in turns:
        question, said, answer = tokens.decode(turn).rpartition(processor.settings.template.assistant)
        if said:
            question = question.removeprefix(processor.settings.template.user).strip()
            messages += [Message("user", question), Message("assistant", answer.strip())]
    return processor.encode_conversation(messages, [False] * (len(messages) // 2), Letterbox.fit((8, 8), (8, 8)))


def image_features(folder: Path, case: str) -> Tensor:
    """What the language model is given of the picture, from here or from group C."""
    if (folder / FEATURES).exists():
        return load(folder, FEATURES)[case]
    return load(sibling(folder, "C", LANGUAGE_WEIGHTS), f"{case}.safetensors")["projected_image_features"]
