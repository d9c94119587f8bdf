"""One training step of each of the original's stages with our model and losses, under the names of the recording.

Group E compares what comes of it. Random points are read from the recording, or drawn as its seed gives them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from group_c import Watch
from group_d import LOSS_NAMES, build_criterion, suffix
from recording import Json
from torch import Tensor

from llava_grounding.convert.official_keys import official_name
from llava_grounding.geometry import box_xyxy_to_cxcywh
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.model.heads import inverse_sigmoid
from llava_grounding.model.outputs import RegionPrompts, VisualPromptOutput, mask_logits_from
from llava_grounding.processing.processor import EncodedImage, EncodedText
from llava_grounding.train.batching.batches import ChatBatch, PointedBatch
from llava_grounding.train.batching.targets import GroundingTarget
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.prompt_losses import PromptCriterion, named_prompt_predictions
from llava_grounding.train.losses.set_criterion import CriterionResult, SetCriterion
from llava_grounding.train.losses.weights import LossWeights
from llava_grounding.train.plan import STAGES, StagePlan
from llava_grounding.train.training_module import LossConfig, TrainingModule

BATCHES = {
    "stage1_flickr_ref": ("flickr0", "coco0", "llava0"),
    "stage2_coco_only": ("flickr0", "coco0", "coco1", "llava0"),
}
ROLES = {
    "stage1_flickr_ref": {"flickr": "flickr", "coco": "refcoco"},
    "stage2_coco_only": {"coco": "coco"},
}
"""Which kinds of rows have a grounding loss, and what the original calls it."""
MAY_LACK_MATCHES = "coco"
"""The only kind of data of which phrases without a match are left out: grounded visual chat."""
WITHOUT_WORDS = {"stage2_coco_only": "flickr"}
"""Kinds of rows that only stand in for others: their words are not learnt from."""
LAST_LAYER_ONLY = ("stage2_coco_only",)
"""Stages that give back the losses of the last layer alone, though all are in the total."""
PROMPT_LOSS_NAMES = {
    "loss_mask": "loss_mask_bce",
    "loss_dice": "loss_mask_dice",
    "loss_box": "loss_bbox",
    "loss_giou": "loss_giou",
    "loss_score": "iou_score_loss",
}


@dataclass(frozen=True)
class Trainee:
    """The converted checkpoint, and how the original would train it."""

    chat: GroundedChat
    config: Json


@dataclass(frozen=True)
class Mapped:
    """One sample as our processor gives it."""

    image: EncodedImage
    text: EncodedText
    boxes_xyxy: Tensor
    """[n, 4] pixels of the canvas."""
    masks: Tensor
    """[n, H, W] bool over the canvas."""
    case: Json

    @property
    def is_grounded(self) -> bool:
        """Whether its phrases have things that are known, which the recording says where it differs."""
        return bool(self.case.get("grounding", True))


class PointsInOrder:
    """Hands out recorded random points one after the other, and draws those that the seed gives at this place.

    Args:
        tokens: rows that the original draws for each object; the first of them is used.
    """

    def __init__(self, recorded: dict[str, Tensor], generator: torch.Generator, tokens: int = 1) -> None:
        self.recorded, self.generator, self.tokens = recorded, generator, tokens
        self.drawn: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        key = f"rand.{len(self.drawn):03d}.{name.split('.')[1]}"
        self.drawn[key] = torch.rand((shape[0] * self.tokens, *shape[1:]), generator=self.generator)
        return self.recorded.get(key, self.drawn[key])[:: self.tokens]


def grounding_step(
    trainee: Trainee, stage: str, mapped: dict[str, Mapped], case: Json, recorded: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Forward and backward of a stage that learns words and grounding, by the module that `train` trains.

    The original computes the losses of each kind of rows by itself; here each kind is a micro-batch of the step.
    """
    model, names = trainee.chat.model, BATCHES[stage]
    model.config.phrase_state = "at_seg"
    model.requires_grad_(True).zero_grad(set_to_none=True)
    ours = read_together(trainee, [mapped[name] for name in names])
    points = PointsInOrder(recorded, torch.Generator().manual_seed(case["manual_seed"]))
    criterion = Watched(**vars(build_criterion(case, trainee.config)), points_of_all=points)
    batches = micro_batches(trainee, stage, mapped)
    num_tokens = sum(batch.counts[0] for batch in batches.values())
    language = total = torch.zeros(())
    for key, batch in batches.items():
        plan = StagePlan(("language",), ()) if key is None else STAGES["align"]
        # The original's batch has no place for a phrase without things; ours has one, which the mean must not count.
        judged = batch.phrase_mask
        wider = judged.shape[1] / int(judged.sum(1).max().clamp(min=1)) if judged.numel() else 1.0
        own = replace(criterion, weights={**criterion.weights, "class": wider * criterion.weights["class"]})
        weights = LossWeights(grounding=1.0)
        criteria = replace(Criteria.of(None, weights), phrases=own)
        module = TrainingModule(model, None, LossConfig(plan, weights, None, True), criteria=criteria).eval()
        losses = module(batch, torch.stack([num_tokens, batch.counts[1], batch.counts[2]]))
        losses["loss"].backward()
        language, total = language + losses["language"].detach(), total + losses["loss"].detach()
        if key is not None:
            found = matches_of(criterion.results.pop(), batch.targets)
            ours |= numbered(found, sum(name.startswith("match.") for name in ours) // 2)
            last = stage in LAST_LAYER_ONLY
            ours |= {f"loss.{key}.{name}": value for name, value in original_names(losses, last).items()}
    norms = {f"grad_norms.{name}": gradient(model, name).norm() for name in case["grad_norms"]}
    return ours | {"loss.llava": language, "loss.loss_total": total} | points.drawn | norms


@dataclass(frozen=True)
class Watched(SetCriterion):
    """The criterion with the recording's points, which keeps what it found."""

    points_of_all: PointsInOrder | None = None
    results: list[CriterionResult] = field(default_factory=list)

    def unweighted(self, *arguments: Any, **named: Any) -> CriterionResult:
        """As ever."""
        output, targets, mask = arguments[:3]
        self.results.append(super().unweighted(output, targets, mask, self.points_of_all, **named))
        return self.results[-1]


@dataclass(frozen=True)
class WatchedPrompts(PromptCriterion):
    """The criterion of what is pointed at with the recording's points, which keeps what it was given and found."""

    points_of_all: PointsInOrder | None = None
    results: list[tuple[VisualPromptOutput, dict[str, Tensor]]] = field(default_factory=list)

    def unweighted(self, output: VisualPromptOutput, *arguments: Any, **named: Any) -> dict[str, Tensor]:
        """As ever."""
        losses = super().unweighted(output, arguments[0], self.points_of_all)
        self.results.append((output, losses))
        return losses


def all_of(boxes_cxcywh_norm: Tensor, types: Tensor) -> RegionPrompts:
    """Visual prompts of one image, none of them padding."""
    return RegionPrompts(boxes_cxcywh_norm[None], types[None], torch.ones(1, len(types), dtype=torch.bool))


def read_together(trainee: Trainee, rows: Sequence[Mapped]) -> dict[str, Tensor]:
    """What the language model is given of all rows in one batch, and what it makes of it."""
    model = trainee.chat.model
    batch = trainee.chat.processor.collate_texts([row.text for row in rows])
    images = trainee.chat.processor.collate_images([row.image for row in rows])
    with torch.no_grad(), Watch(trunk=(model.language_model, "forward")) as watch:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **images)
    return {
        "spliced.inputs_embeds": watch.calls["trunk"][0][1]["inputs_embeds"],
        "spliced.labels": batch["labels"],
        "spliced.attention_mask": batch["attention_mask"],
        "last_hidden_state": output.last_hidden_state,
        "phrase_positions": (batch["input_ids"] == model.config.seg_token_id).nonzero()[:, 1],
    }


def micro_batches(trainee: Trainee, stage: str, mapped: dict[str, Mapped]) -> dict[str | None, ChatBatch]:
    """The rows of each kind that has a grounding loss, by the original's name of it, and under None all others."""
    names = BATCHES[stage]
    parts: dict[str | None, list[str]] = {key: [] for key in (*ROLES[stage].values(), None)}
    for name in names:
        key = ROLES[stage].get(kind_of(name)) if mapped[name].is_grounded else None
        parts[key].append(name)
    return {key: chat_batch_of(trainee, stage, key, part, mapped) for key, part in parts.items() if part}


def chat_batch_of(
    trainee: Trainee, stage: str, key: str | None, names: Sequence[str], mapped: dict[str, Mapped]
) -> ChatBatch:
    """Some rows as training has them; those without a key have no phrases that are judged."""
    processor, rows = trainee.chat.processor, [mapped[name] for name in names]
    texts = processor.collate_texts([row.text for row in rows])
    segs = [row.text.input_ids.count(processor.tokens.ids.seg) for row in rows]
    judged = torch.zeros(len(rows), max(segs), dtype=torch.bool)
    targets = []
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        if kind_of(name) == WITHOUT_WORDS.get(stage):
            texts["labels"][place] = -100
        if key is not None:
            kept = row.case["grounding_mask"] if key == MAY_LACK_MATCHES else [True] * segs[place]
            judged[place, : segs[place]] = torch.tensor(kept, dtype=torch.bool)
        targets.append(target_of(row, judged[place]) if key is not None else nothing())
    return ChatBatch(processor.collate_images([row.image for row in rows]), texts, None, targets, judged)


def nothing() -> GroundingTarget:
    """The target of a row without things."""
    return GroundingTarget(torch.zeros(0, 4), None, torch.zeros(0, dtype=torch.bool), torch.zeros(0, 0).bool())


def original_names(losses: dict[str, Tensor], last_layer_only: bool) -> dict[str, Tensor]:
    """Grounding losses of a step by the original's names."""
    found = {}
    for ours, value in losses.items():
        kind, _, layer = ours.removeprefix("phrase_loss_").partition("_")
        if ours.startswith("phrase_loss_"):
            found[LOSS_NAMES[f"loss_{kind}"] + suffix(layer or "final")] = value.detach()
    return {name: value for name, value in found.items() if not last_layer_only or name.endswith("_0")}


def kind_of(name: str) -> str:
    """Which data a sample is of: its name without the number."""
    return name.rstrip("0123456789")


def target_of(sample: Mapped, judged: Tensor) -> GroundingTarget:
    """The things of a sample, each with the phrases that name it.

    Args:
        judged: [G] bool: phrases that have things; the recording counts these alone.
    """
    side = torch.tensor(sample.image.letterbox.canvas_size_wh).repeat(2)
    phrase_map = torch.zeros(len(sample.masks), len(judged), dtype=torch.bool)
    places = judged.nonzero()[:, 0]
    for row, named in enumerate(sample.case["gt_classes"] if len(places) else ()):
        phrase_map[row, places[named]] = True
    boxes = box_xyxy_to_cxcywh(sample.boxes_xyxy) / side
    return GroundingTarget(boxes, sample.masks.to(torch.uint8), torch.ones(len(boxes), dtype=torch.bool), phrase_map)


def matches_of(result: CriterionResult, targets: Sequence[GroundingTarget]) -> dict[str, Tensor]:
    """Pairs of each prediction and in it of each image, numbered as they are made."""
    found: dict[str, Tensor] = {}
    first_rows = [0, *accumulate(len(target) for target in targets)]
    for queries, rows in zip(result.pairs.queries, result.pairs.targets, strict=True):
        parts = zip(queries.split(result.pairs.counts), rows.split(result.pairs.counts), first_rows, strict=False)
        for own_queries, own_rows, first in parts:
            number = len(found) // 2
            found |= {f"{number:03d}.query": own_queries, f"{number:03d}.target": own_rows - first}
    return found


def numbered(found: dict[str, Tensor], before: int) -> dict[str, Tensor]:
    """Names with numbers that go on from those `before`."""
    return {f"match.{int(name[:3]) + before:03d}{name[3:]}": value for name, value in found.items()}


def gradient(model: torch.nn.Module, key: str) -> Tensor:
    """Of the weight that the original calls `key`."""
    name = official_name(key)
    value = None if name is None else dict(model.named_parameters())[name].grad
    return torch.zeros(()) if value is None else value


_BOX_NOISE = 0.4  # share of half its size by which a box moves, and of its size by which it is stretched
_CLICK_NOISE = 0.01  # the same of clicks, share of that


def jitter_prompts(boxes_cxcywh_norm: np.ndarray, types: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """As the original: boxes [k, 4] moved and stretched by uniform noise [k, 4] in [0, 1), cut; clicks hardly move."""
    reach = boxes_cxcywh_norm * np.array([0, 0, 1, 1], dtype=boxes_cxcywh_norm.dtype)
    reach[:, :2] = boxes_cxcywh_norm[:, 2:] / 2
    scale = np.where(types == 0, _BOX_NOISE * _CLICK_NOISE, _BOX_NOISE)[:, None]
    moved = boxes_cxcywh_norm + (2 * noise - 1) * reach * scale
    return np.clip(moved, 0, 1).astype(boxes_cxcywh_norm.dtype)


def prompt_step(trainee: Trainee, sample: Mapped, case: Json, recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Forward of the stage that learns visual prompts, by the module that `train` trains."""
    model, processor = trainee.chat.model, trainee.chat.processor
    target = target_of(sample, torch.zeros(0, dtype=torch.bool))
    generator = torch.Generator().manual_seed(case["manual_seed"])
    noise = torch.rand(1, len(target), 4, generator=generator)
    clicks = recorded["targets.points_cxcywh"]
    boxes = torch.cat([clicks, target.boxes_cxcywh_norm[len(clicks) :]])
    types = (torch.arange(len(boxes)) >= case["box_start"]).long()
    moved = torch.from_numpy(jitter_prompts(boxes.numpy(), types.numpy(), noise[0].numpy()))
    region = processor.tokens.ids.region
    places = sample.text.input_ids.count(region)
    named = [*sample.case["grounding_index"], *[sample.case["grounding_index"][-1]] * places][:places]
    batch = ChatBatch(
        processor.collate_images([sample.image]),
        processor.collate_texts([sample.text]),
        all_of(moved[named], types[named]),
        [nothing()],
        torch.zeros(1, 0, dtype=torch.bool),
        pointed=PointedBatch(all_of(moved, types), [target]),
    )
    points = PointsInOrder(recorded, generator, tokens=model.config.visual_prompt_config.num_mask_tokens)
    scaled = {name: case["weight_multiplier"] * weight for name, weight in LossWeights().of_prompts.items()}
    criterion = WatchedPrompts(scaled, num_points=case["num_points"], points_of_all=points)
    weights = LossWeights(prompts=1.0)
    config = LossConfig(StagePlan(("language", "prompts"), ()), weights, None, True)
    criteria = replace(Criteria.of(None, weights), prompts=criterion)
    module = TrainingModule(model, None, config, criteria=criteria).eval()
    decoder, trunk = model.visual_prompt_encoder.query_decoder, model.language_model
    with torch.no_grad(), Watch(decoder=(decoder, "forward"), trunk=(trunk, "forward")) as watch:
        losses = module(batch)
    [(output, unweighted)] = criterion.results
    # Prompts of the dialogue are encoded first, then all that is pointed at.
    _, ((content, references, *_), keywords, _) = watch.calls["decoder"]
    return {
        "targets.boxes_cxcywh": target.boxes_cxcywh_norm,
        "targets.masks": sample.masks,
        "targets.prompt_boxes": boxes,
        "targets.prompt_type": types,
        "rand_like.0": noise,
        "query.content": content,
        "query.reference_unsigmoid": inverse_sigmoid(references),
        "query.self_attention_mask": blocked(content.shape[1], keywords["group_size"]),
        **network(output),
        "net.final.obj_features": output.queries.flatten(1, 2),
        "injected_features": output.region_embeds[:, named],
        "prompt_positions": torch.tensor(
            [place for place, token in enumerate(one_image_position(trainee, sample)) if token == region]
        ),
        **prompt_losses(criterion, unweighted, losses, len(target)),
        "spliced.inputs_embeds": watch.calls["trunk"][0][1]["inputs_embeds"],
        "spliced.labels": batch.texts["labels"],
        "loss.coco.llava": losses["language"],
        **points.drawn,
        "loss.coco.loss_total": losses["loss"],
        "loss.loss_total": losses["loss"],
    }


def one_image_position(trainee: Trainee, sample: Mapped) -> list[int]:
    """Ids with one place for the image, as the original counts before splicing."""
    image = trainee.chat.processor.tokens.ids.image
    ids = sample.text.input_ids
    return [token for place, token in enumerate(ids) if token != image or ids[place - 1] != image]


def blocked(queries: int, group: int) -> Tensor:
    """1 where a query must not see another: they see their own group alone."""
    groups = torch.arange(queries) // group
    return (groups[:, None] != groups[None]).to(torch.uint8)


def network(output: VisualPromptOutput) -> dict[str, Tensor]:
    """What every layer says of every token."""
    ours = {}
    for name, prediction in named_prompt_predictions(output).items():
        ours[f"net.{name}.boxes"] = prediction.boxes_cxcywh_norm.flatten(1, 2)
        ours[f"net.{name}.ious"] = prediction.ious
        ours[f"net.{name}.masks"] = mask_logits_from(prediction.mask_embeds.flatten(1, 2), output.mask_features)
    return ours


def prompt_losses(
    criterion: PromptCriterion, unweighted: dict[str, Tensor], losses: dict[str, Tensor], num_masks: int
) -> dict[str, Tensor]:
    """Losses before weights, weights, and the step's weighted losses of the last layer."""
    ours = {"loss_unweighted.num_masks": torch.tensor(float(num_masks))}
    for name, theirs in PROMPT_LOSS_NAMES.items():
        layers = [key for key in unweighted if key == name or key.startswith(f"{name}_")]
        for layer, key in enumerate(layers):
            ours[f"loss_unweighted.{theirs}_{layer}"] = unweighted[key]
            ours[f"weight_dict.{theirs}_{layer}"] = criterion.weigh({key: torch.ones(())})[key]
        ours[f"loss.coco.inter.{theirs}_0"] = losses[f"prompt_{name}"]
    return ours
