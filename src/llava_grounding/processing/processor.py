"""The processor: `encode` turns an image and a conversation into tensors, `decode` turns tensors into an answer.

Training, chat, benchmark and server all pass here, so that they cannot drift apart. Knows no model weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerBase

from llava_grounding import markup
from llava_grounding.checkpoint_files import (
    CONFIG,
    PROCESSOR,
    PROCESSOR_FILES,
    TEMPLATE,
    check_folder,
    check_one_home,
    local_folder,
    read_json,
    read_object,
)
from llava_grounding.errors import CheckpointError, ConfigError, did_you_mean
from llava_grounding.geometry import Letterbox
from llava_grounding.image_files import load_image
from llava_grounding.masks import encode_rle_at
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.outputs import IGNORE_INDEX
from llava_grounding.processing.chat_format import jinja_template
from llava_grounding.processing.conversation import ChatTemplate, PromptPiece, check_question, dialogue_pieces
from llava_grounding.processing.demo import demo_pieces, demo_prompts
from llava_grounding.processing.image import (
    CanvasSettings,
    TowerSettings,
    letterbox_image,
    normalise,
    tower_image,
)
from llava_grounding.processing.regions import EncodedPrompts, collate_prompts, encode_prompts
from llava_grounding.processing.selection import PhraseSelection, SelectionSettings, select_regions
from llava_grounding.processing.sentencepiece import SentencePieceTokenizer
from llava_grounding.processing.text_length import check_characters_fit, check_tokens, limit_to_model, max_tokens_of
from llava_grounding.processing.tokenizer_files import read_tokenizer
from llava_grounding.processing.tokens import MarkupTokenizer
from llava_grounding.processing.transformers_mixin import TransformersProcessorMixin
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message, PackedRegion, Region, VisualPrompt
from llava_grounding.typed_values import is_whole

if TYPE_CHECKING:
    from llava_grounding.model.llava_grounding import RegionPrompts
    from llava_grounding.model.outputs import GrounderOutput

_TOKENISATIONS = {"markup": MarkupTokenizer, "sentencepiece": SentencePieceTokenizer}
_LONGEST_IMAGE = 100_000  # positions
_LONGEST_TEXT = 10_000  # of a template
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")


@dataclass(frozen=True)
class EncodedImage:
    """One image, ready for the model."""

    canvas: torch.Tensor
    """uint8 `[S, S, 3]`, letterboxed, not normalised: small to keep, normalised when collated."""
    tower: torch.Tensor | None
    """`[3, s, s]`, normalised; None when the vision tower shares the grounder's features."""
    letterbox: Letterbox
    """Maps between the image and the canvas."""


@dataclass(frozen=True)
class EncodedText:
    """A conversation, ready for the model."""

    input_ids: list[int]
    """Image and region placeholders written out to their full length."""
    loss_mask: list[bool]
    """Per token, whether the language model's loss counts it."""
    prompts: EncodedPrompts
    """Visual prompts in the order of their placeholders."""


@dataclass(frozen=True)
class ProcessorSettings:
    """Everything the processor needs beside the tokenizer."""

    image_sequence_length: int
    """Positions one image takes in the text."""
    canvas: CanvasSettings = field(default_factory=CanvasSettings)
    tower: TowerSettings | None = None
    template: ChatTemplate = field(default_factory=ChatTemplate)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    tokenisation: str = "markup"
    """How text becomes ids: "markup" for our own checkpoints, "sentencepiece" as the original, for converted ones."""
    demo_quirks: bool = False
    """Write dialogues as the original's demo does, faults included; see `demo.py`."""

    @classmethod
    def of(cls, config: LlavaGroundingConfig, **others: Any) -> ProcessorSettings:
        """What a model's configuration says of its processor; the other fields as given, or their defaults."""
        grounder = config.grounder_config
        return cls(
            image_sequence_length=config.image_sequence_length,
            canvas=CanvasSettings(
                grounder.image_size, tuple(grounder.image_mean), tuple(grounder.image_std), grounder.pad_value
            ),
            selection=SelectionSettings(config.score_function, config.score_threshold, config.nms_iou),
            **others,
        )

    def __post_init__(self) -> None:
        if self.tokenisation not in list(_TOKENISATIONS):
            raise ConfigError(
                f"tokenisation must be {' or '.join(_TOKENISATIONS)}, got `{self.tokenisation!s:.80}`"
                f"{did_you_mean(str(self.tokenisation), _TOKENISATIONS)}"
            )
        if not is_whole(self.image_sequence_length) or not 0 < self.image_sequence_length <= _LONGEST_IMAGE:
            raise ConfigError(
                f"image_sequence_length must be 1 to {_LONGEST_IMAGE:,}, got {self.image_sequence_length!r:.80}"
            )
        if not isinstance(self.demo_quirks, bool):
            raise ConfigError(f"demo_quirks must be true or false, got {self.demo_quirks!r:.80}")
        if self.demo_quirks and self.tokenisation != "sentencepiece":
            raise ConfigError(f"demo_quirks need tokenisation `sentencepiece`, got `{self.tokenisation}`")


class LlavaGroundingProcessor(TransformersProcessorMixin):
    """Encodes images and conversations, decodes grounded answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: ProcessorSettings) -> None:
        self.tokens = _TOKENISATIONS[settings.tokenisation](tokenizer)
        self.settings = settings
        if settings.template.begin and self.tokens.ids.bos is None:
            raise CheckpointError("the chat template begins with a token that the tokenizer does not have")
        self.chat_template = jinja_template(settings.template)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The wrapped tokenizer of transformers."""
        return self.tokens.tokenizer

    @property
    def max_tokens(self) -> int | None:
        """Longest text the model reads, in tokens; None where the tokenizer does not know."""
        return max_tokens_of(self.tokenizer)

    def encode_image(self, image: Image.Image) -> EncodedImage:
        """Prepare an image for both encoders; one that is not upright RGB yet is read as by `load_image`."""
        if image.mode != "RGB" or image.info:
            image = load_image(image, self.image_limits)
        canvas, letterbox = letterbox_image(image, self.settings.canvas)
        tower = None if self.settings.tower is None else tower_image(image, self.settings.tower)
        return EncodedImage(torch.from_numpy(canvas), tower, letterbox)

    def encode_conversation(
        self,
        messages: Sequence[Message],
        grounded: Sequence[bool],
        letterbox: Letterbox,
        max_tokens: int | None = None,
        in_loss: Sequence[bool] | None = None,
    ) -> EncodedText:
        """Prepare a whole dialogue, image placeholder first.

        Args:
            grounded: per question, whether its answer shall be grounded.
            letterbox: of the image the dialogue is about; visual prompts are mapped with it.
            max_tokens: refuse a longer one, and one that must be longer before it costs anything; None refuses none.
            in_loss: per question, whether its answer counts in the loss; None: all do.

        Raises:
            PromptError: if a question is empty or does not fit its prompts.
            UsageError: if the dialogue is too long.
        """
        if self.settings.demo_quirks:
            return self._encode_as_demo(messages, grounded, letterbox, max_tokens)
        pieces = dialogue_pieces(self.settings.template, messages, grounded, in_loss)
        prompts = [prompt for message in messages if message.role == "user" for prompt in message.prompts]
        return self._encode_pieces(pieces, prompts, letterbox, max_tokens)

    def encode_question(
        self, message: Message, grounded: bool, first: bool, letterbox: Letterbox, max_tokens: int | None = None
    ) -> EncodedText:
        """Prepare one question, to be appended to what the model has already read; `max_tokens` as for a dialogue.

        With `demo_quirks` only a first question can be: later ones change how those before them are read.
        """
        if self.settings.demo_quirks:
            assert first
            return self._encode_as_demo([message], [grounded], letterbox, max_tokens)
        check_question(message.text, len(message.prompts))
        pieces = self.settings.template.question(message.text, len(message.prompts), grounded, first)
        return self._encode_pieces(pieces, message.prompts, letterbox, max_tokens)

    def _encode_as_demo(
        self, messages: Sequence[Message], grounded: Sequence[bool], letterbox: Letterbox, max_tokens: int | None
    ) -> EncodedText:
        """A dialogue with the faults of the original's demo."""
        tokens = self.tokens
        assert isinstance(tokens, SentencePieceTokenizer)
        *before, whole = demo_pieces(self.settings.template, messages, grounded)
        check_characters_fit(len(whole.text), tokens.longest, max_tokens)
        encoded = self._encode_pieces(before, (), letterbox)
        ids, prompts = tokens.encode_marked(whole.text), demo_prompts(messages)
        check_tokens(len(encoded.input_ids) + len(ids), max_tokens)
        if prompts:
            prompts *= ids.count(tokens.percent)
            ids = [tokens.ids.region if token == tokens.percent else token for token in ids]
        return replace(
            encoded,
            input_ids=encoded.input_ids + ids,
            loss_mask=encoded.loss_mask + [False] * len(ids),
            prompts=encode_prompts(prompts, letterbox),
        )

    def _encode_pieces(
        self,
        pieces: Sequence[PromptPiece],
        prompts: Sequence[VisualPrompt],
        letterbox: Letterbox,
        max_tokens: int | None = None,
    ) -> EncodedText:
        check_characters_fit(sum(len(piece.text) for piece in pieces), self.tokens.longest, max_tokens)
        ids: list[int] = []
        loss_mask: list[bool] = []
        for piece in pieces:
            if piece.kind == "image":
                new = [self.tokens.ids.image] * self.settings.image_sequence_length
            elif piece.kind == "begin":
                assert self.tokens.ids.bos is not None
                new = [self.tokens.ids.bos]
            elif piece.kind == "answer":
                new = [*self.tokens.encode_answer(piece.text), self.tokens.ids.eos]
            else:
                new = self.tokens.encode_question(piece.text, piece.num_regions)
            ids += new
            loss_mask += [piece.in_loss] * len(new)
        check_tokens(len(ids), max_tokens)
        return EncodedText(ids, loss_mask, encode_prompts(prompts, letterbox))

    def collate_images(self, images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
        """Batch images: `grounder_pixel_values [B, 3, S, S]` and, with a tower, `pixel_values [B, 3, s, s]`."""
        canvas = self.settings.canvas
        batch = {
            "grounder_pixel_values": normalise(torch.stack([image.canvas for image in images]), canvas.mean, canvas.std)
        }
        towers = [image.tower for image in images if image.tower is not None]
        if towers:
            batch["pixel_values"] = torch.stack(towers)
        return batch

    def collate_texts(
        self, texts: Sequence[EncodedText], padding_side: str = "right", length: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Batch texts: `input_ids`, `attention_mask` and `labels`, all `[B, T]`; label -100 is no target of the loss.

        Args:
            length: T, at least; None is the longest text's.
        """
        longest = max([len(text.input_ids) for text in texts] + ([] if length is None else [length]))
        ids = torch.full((len(texts), longest), self.tokens.ids.pad)
        mask = torch.zeros((len(texts), longest), dtype=torch.long)
        labels = torch.full((len(texts), longest), IGNORE_INDEX)
        for row, text in enumerate(texts):
            length = len(text.input_ids)
            place = slice(0, length) if padding_side == "right" else slice(longest - length, longest)
            values = torch.tensor(text.input_ids)
            ids[row, place] = values
            mask[row, place] = 1
            labels[row, place] = torch.where(torch.tensor(text.loss_mask, dtype=torch.bool), values, IGNORE_INDEX)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def collate_prompts(self, prompts: Sequence[EncodedPrompts]) -> RegionPrompts | None:
        """Batch visual prompts; None when no row has one."""
        return collate_prompts(prompts)

    def select(
        self,
        output: GrounderOutput,
        row: int,
        num_phrases: int,
        letterbox: Letterbox | None = None,
        score_threshold: float | None = None,
    ) -> list[PhraseSelection]:
        """What each phrase of one image keeps; with its letterbox only what lies in the image.

        Args:
            score_threshold: above which a region is kept; None is that of the settings.
        """
        settings = self.settings.selection
        if score_threshold is not None:
            settings = replace(settings, score_threshold=score_threshold)
        return select_regions(output, row, num_phrases, settings, letterbox)

    def decode_regions(
        self, selection: PhraseSelection, letterbox: Letterbox, packed: bool = False
    ) -> tuple[Region, ...]:
        """A phrase's kept queries as regions of the original image: xyxy pixels inside it, masks at its size.

        One of which no area or no pixel is in the image is no region; selection leaves those out where it knows the
        letterbox.

        Args:
            packed: keep masks as run-length codes, without their logits; costs the parts of the picture where masks
                are, not the picture.
        """
        boxes = letterbox.norm_cxcywh_to_image(selection.boxes_cxcywh_norm)
        width, height = letterbox.image_size_wh
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float64))
        regions: list[Region] = []
        for box, score, logits in zip(boxes, selection.scores, selection.mask_logits, strict=True):
            part, (left, top) = letterbox.mask_part_to_image(logits)
            if box[2] <= box[0] or box[3] <= box[1] or not part.any():
                continue
            if packed:
                rle = encode_rle_at(part, (left, top), (height, width))
                regions.append(PackedRegion(box, float(score), rle))
            else:
                mask = np.zeros((height, width), dtype=bool)
                mask[top : top + part.shape[0], left : left + part.shape[1]] = part
                regions.append(Region(box_xyxy=box, score=float(score), mask=mask, mask_logits=logits))
        return tuple(regions)

    def decode_phrase(
        self,
        phrase: markup.PhraseSpan,
        number: int,
        selection: PhraseSelection | None,
        letterbox: Letterbox,
        packed: bool = False,
    ) -> GroundedPhrase:
        """A phrase of the text with its regions; `selection=None` means that it was not grounded.

        Args:
            packed: see `decode_regions`.
        """
        score = 0.0 if selection is None else selection.best_score
        return GroundedPhrase(
            id=number,
            text=phrase.text,
            span=phrase.span,
            regions=() if selection is None else self.decode_regions(selection, letterbox, packed),
            score=score,
            doubtful=selection is not None and self.settings.selection.doubts(score),
        )

    def decode_answer(
        self,
        raw: str,
        selections: Sequence[PhraseSelection | None],
        letterbox: Letterbox,
        *,
        model: str,
        prompt_tokens: int,
        completion_tokens: int,
        image: Image.Image | None = None,
        packed: bool = False,
    ) -> GroundedAnswer:
        """Turn raw text and the regions of its `<seg>` tokens into an answer.

        Args:
            selections: one per `<seg>` of `raw`, in order; None for one that was not grounded.
            packed: see `decode_regions`.
        """
        parsed = markup.parse(raw)
        phrases = tuple(
            self.decode_phrase(
                phrase,
                number,
                selections[phrase.seg_index] if phrase.seg_index < len(selections) else None,
                letterbox,
                packed,
            )
            for number, phrase in enumerate(parsed.phrases)
        )
        return GroundedAnswer(
            text=parsed.text,
            phrases=phrases,
            image_size_wh=letterbox.image_size_wh,
            raw=raw,
            model=model,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            image=image,
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        settings = self.settings
        return {
            "processor_class": type(self).__name__,
            "image_sequence_length": settings.image_sequence_length,
            "canvas": settings.canvas.to_dict(),
            "tower": None if settings.tower is None else settings.tower.to_dict(),
            "template": settings.template.to_dict(),
            "selection": settings.selection.to_dict(),
            "tokenisation": settings.tokenisation,
            "demo_quirks": settings.demo_quirks,
        }

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write tokenizer, chat template and settings beside the model's files; `push_to_hub` uploads what it wrote.

        Args:
            kwargs: what transformers passes to whatever it saves; no meaning here.
        """
        del kwargs
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.tokenizer.save_pretrained(folder)
        except Exception as error:
            if type(error) is not Exception:
                raise
            raise OSError(str(error)) from error  # what `tokenizers` raises for a full disk
        (folder / TEMPLATE).write_text(str(self.chat_template), encoding="utf-8")
        (folder / PROCESSOR).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> LlavaGroundingProcessor:  # type: ignore[override]
        """Read what `save_pretrained` wrote.

        Args:
            folder: or a hub id, which is downloaded.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only` for the hub; others mean nothing here.

        Raises:
            CheckpointError: if a file is missing or damaged.
        """
        folder = local_folder(folder, PROCESSOR_FILES, kwargs)
        try:
            values = read_object(folder / PROCESSOR)
            settings = _read_settings(values)
        except CheckpointError:
            raise
        except (ConfigError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{PROCESSOR} of the checkpoint in `{folder}` is missing or damaged: {_reason(error)}"
            ) from error
        check_folder(folder)
        if (folder / CONFIG).is_file():
            check_one_home(folder, read_json(folder, CONFIG), values)
        tokenizer = read_tokenizer(folder)
        limit_to_model(tokenizer, folder)
        return cls(tokenizer, settings)


def _read_settings(values: dict[str, Any]) -> ProcessorSettings:
    """The settings of a processor_config.json."""
    canvas = {key: _tuple(value) for key, value in values["canvas"].items()}
    tower = values["tower"] and {key: _tuple(value) for key, value in values["tower"].items()}
    template, selection = ChatTemplate(**values["template"]), values["selection"]
    if "query_selection" in selection:
        raise ConfigError("`selection.query_selection` is called `selection.score_function` now")
    for name, text in template.to_dict().items():
        if isinstance(text, str) and (len(text) > _LONGEST_TEXT or _CONTROL.search(text)):
            raise ConfigError(f"template.{name} must be a text of at most {_LONGEST_TEXT:,} printable characters")
    return ProcessorSettings(
        image_sequence_length=values["image_sequence_length"],
        canvas=CanvasSettings(**canvas),
        tower=TowerSettings(**tower) if tower else None,
        template=template,
        selection=SelectionSettings(**selection),
        tokenisation=values.get("tokenisation", "markup"),
        demo_quirks=values.get("demo_quirks", False),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# So that transformers' own AutoProcessor and pipelines read a folder of ours, once this module is imported.
AutoProcessor.register(LlavaGroundingConfig, LlavaGroundingProcessor)
