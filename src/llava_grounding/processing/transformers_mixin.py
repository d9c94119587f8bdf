"""The processor as transformers knows it: `processor(...)`, `apply_chat_template` and `post_process_*`.

A mixin over the processor's own methods, which do the work; here are only the names and forms that pipelines, trainers
and people used to transformers expect.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from transformers import ProcessorMixin

from llava_grounding import markup
from llava_grounding.errors import PromptError, UsageError, did_you_mean, shown
from llava_grounding.geometry import Letterbox
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits, load_image
from llava_grounding.model.outputs import IGNORE_INDEX
from llava_grounding.processing.chat_format import ParsedChat, is_list, prompt_pieces, read_chat, region_prompt
from llava_grounding.processing.conversation import PromptPiece, check_question, dialogue_pieces
from llava_grounding.processing.regions import EncodedPrompts
from llava_grounding.processing.selection import PhraseSelection
from llava_grounding.processing.tokens import IMAGE
from llava_grounding.processing.transcript import Transcript
from llava_grounding.processing.transformers_images import (
    IMAGE_INPUT_NAMES,
    GroundingBatch,
    GroundingImageProcessor,
    image_tensors,
    unwrapped,
)
from llava_grounding.processing.transformers_options import OPTION_NAMES, STANDARD_NAMES, TextOptions, read_options
from llava_grounding.structures import GroundedAnswer, Message, VisualPrompt

if TYPE_CHECKING:
    from llava_grounding.model.generation import GeneratedPhrases
    from llava_grounding.model.llava_grounding import RegionPrompts
    from llava_grounding.processing.processor import (
        EncodedImage,
        EncodedText,
        LlavaGroundingProcessor,
        ProcessorSettings,
    )
    from llava_grounding.processing.tokens import MarkupTokenizer


class TransformersProcessorMixin(ProcessorMixin):
    """What `LlavaGroundingProcessor` offers beside its own methods."""

    image_limits: ImageLimits = DEFAULT_LIMITS
    """What images are refused for their size; may be set, and is not saved."""

    if TYPE_CHECKING:  # the processor's own methods, on which these stand
        tokens: MarkupTokenizer
        settings: ProcessorSettings

        def encode_image(self, image: Image.Image) -> EncodedImage: ...
        def collate_images(self, images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]: ...
        def collate_texts(
            self, texts: Sequence[EncodedText], padding_side: str, length: int | None = None
        ) -> dict[str, torch.Tensor]: ...
        def collate_prompts(self, prompts: Sequence[EncodedPrompts]) -> RegionPrompts | None: ...
        def select(
            self, output: Any, row: int, num_phrases: int, letterbox: Letterbox | None
        ) -> list[PhraseSelection]: ...
        def decode_answer(self, raw: str, *args: Any, **kwargs: Any) -> GroundedAnswer: ...
        def _encode_pieces(
            self, pieces: Any, prompts: Any, letterbox: Letterbox, max_tokens: int | None = None
        ) -> EncodedText: ...
        @property
        def max_tokens(self) -> int | None: ...

    @property
    def image_processor(self) -> GroundingImageProcessor:
        """The half that prepares images, as transformers knows it."""

        def encode(images: Sequence[Any]) -> dict[str, torch.Tensor]:
            encoded = [self.encode_image(load_image(image, self.image_limits)) for image in images]
            return image_tensors(encoded, self.collate_images)

        return GroundingImageProcessor(self.settings, encode)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        regions: Any = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        padding_side: str = "left",
        grounded: bool = True,
        **kwargs: Any,
    ) -> GroundingBatch:
        """Encode prompts, written out as `apply_chat_template` gives them, or plain questions.

        Args:
            images: one per text; each may stand in a list of its own. A path, bytes, PIL image or array.
            text: a prompt with one `<image>`; or a question without, which is put into the chat template. Special
                tokens in a prompt are taken as such: give text of strangers as messages to `apply_chat_template`.
            regions: per text, a list of region parts or `VisualPrompt`s for its first `<region>`s.
            padding_side: "left" for `generate`, "right" for training.
            grounded: for plain questions, whether to ask for regions.
            kwargs: `truncation`, `max_length`, `pad_to_multiple_of`, `add_special_tokens`; see `TextOptions`.

        Returns:
            `input_ids`, `attention_mask`, `grounder_pixel_values`, `pixel_values` if the model has a tower of its own,
            `image_sizes` [B, 2] (height, width), and `region_*` if there are regions.

        Raises:
            ImageError, PromptError: if an image or a region cannot be used, or their numbers do not fit.
            UsageError: if an argument is not known, a text is longer than the model reads, or there is none.
        """
        given = {"return_tensors": return_tensors, "padding": padding, "padding_side": padding_side}
        options = read_options({**kwargs, **given}, "processor(...)")
        texts = _texts(text)
        encoded = self._encode_images(_one_each(images, len(texts)))
        prompts = _prompts_each(regions, len(texts), batched=not isinstance(text, str))
        rows = [
            self._encode_prompt(each, image, placed, grounded, options)
            for each, image, placed in zip(texts, encoded, prompts, strict=True)
        ]
        return self._batch(rows, encoded, options)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        grounded: bool = True,
        images: Any = None,
        padding: bool | str = True,
        padding_side: str = "left",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render a chat, or encode it.

        Args:
            conversation: messages, or a list of chats. A message's content is a text or a list of parts: text, image
                (`image`, `path`, `url` with a data URL, or `base64`), region (`box`, `click`, `scribble` or `mask`).
            tokenize: encode instead of giving the text. What a message says is never taken for a special token.
            add_generation_prompt: end where the answer begins.
            continue_final_message: the last answer is not finished.
            return_assistant_tokens_mask: also give `assistant_masks`, 1 where an answer is.
            grounded: ask for regions, in questions that do not say by a key `grounded` of their own.
            images: one per chat, for image parts that hold none.
            chat_template, processor_kwargs, kwargs: as in transformers: options of `processor(...)`, and names that the
                template knows; with a template of another's making the text is rendered first and then encoded as by
                `processor(...)`.

        Returns:
            The text; or its ids; or with `return_dict` what `processor(...)` gives.

        Raises:
            ImageError, PromptError: if a message, an image or a region cannot be used.
            UsageError: if an argument is not known or has no use, or a chat is longer than the model reads.
        """
        template = chat_template or str(self.chat_template)
        foreign = template != self.chat_template
        processor_kwargs = dict(processor_kwargs or {})
        images = processor_kwargs.pop("images", images)
        asked = _asked_options(kwargs, processor_kwargs)
        given = {"padding": padding, "padding_side": padding_side, "return_tensors": return_tensors}
        options = read_options({**given, **asked}, "apply_chat_template")
        _check_variables(kwargs, template)
        text: Any = None
        if foreign or not tokenize:
            variables = {**kwargs, "add_generation_prompt": add_generation_prompt, "grounded": grounded}
            text = super().apply_chat_template(
                conversation, template, continue_final_message=continue_final_message, tokenize=False, **variables
            )
        if not tokenize:
            _check_no_use(asked)
            return text
        if return_assistant_tokens_mask and not return_dict:
            raise UsageError("return_assistant_tokens_mask gives a mask beside the ids, so it needs return_dict=True")
        chats = [read_chat(chat, grounded) for chat in (conversation if _is_batch(conversation) else [conversation])]
        placed = _one_each(images, len(chats))
        encoded = self._encode_images(
            [chat.image if image is None else image for chat, image in zip(chats, placed, strict=True)]
        )
        texts = ([text] if isinstance(text, str) else text) if foreign else None
        ends = add_generation_prompt, continue_final_message
        rows = self._encode_chats(chats, encoded, texts, grounded, ends, options)
        batch = self._batch(rows, encoded, options)
        if return_assistant_tokens_mask:
            batch["assistant_masks"] = (self._collate(rows, options)["labels"] != IGNORE_INDEX).long()
        return batch if return_dict else batch["input_ids"]

    def _encode_chats(
        self,
        chats: Sequence[ParsedChat],
        encoded: Sequence[EncodedImage | None],
        texts: Sequence[str] | None,
        grounded: bool,
        ends: tuple[bool, bool],
        options: TextOptions,
    ) -> list[EncodedText]:
        """Chats in the form of the checkpoint, or as a template of another's making wrote them as `texts`."""
        if texts is None:
            return [self._encode_chat(chat, image, *ends, options) for chat, image in zip(chats, encoded, strict=True)]
        return [
            self._encode_prompt(text, image, chat.prompts, grounded, options)
            for text, image, chat in zip(texts, encoded, chats, strict=True)
        ]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Plain text of generated ids, row by row, without markup; with it if special tokens are not to be skipped."""
        del kwargs  # clean-up of blanks and the like: decoding gives the text as it was written
        texts, template = [], self.settings.template
        for ids in generated_outputs:
            raw = self.tokens.decode([int(token) for token in ids]).removeprefix(template.answer_prefix)
            # The blank before an answer is the template's, so that prompt and answer can be told apart at the colon.
            raw = raw.replace(template.assistant + template.answer_prefix, template.assistant)
            texts.append(markup.parse(raw).text if skip_special_tokens else raw)
        return texts

    def post_process_grounding(
        self, generated: Any, found: GeneratedPhrases, image_sizes: torch.Tensor, model: str = "model", **inputs: Any
    ) -> list[GroundedAnswer]:
        """Answers with their regions.

        Args:
            generated: what `generate` gave: its output, or the ids `[B, T]`.
            found: what `model.ground_generated` gave for it.
            image_sizes: of the inputs; the other inputs may be given too and change nothing.
            model: what the answers call the model.

        Returns:
            One per row of `generated`, in pixels of the original images.
        """
        del inputs
        sequences = getattr(generated, "sequences", generated)
        sizes = image_sizes.repeat_interleave(len(sequences) // len(image_sizes), dim=0).tolist()
        canvas = (self.settings.canvas.size, self.settings.canvas.size)
        answers = []
        for row, (ids, (height, width)) in enumerate(zip(sequences.tolist(), sizes, strict=True)):
            transcript = Transcript(cast("LlavaGroundingProcessor", self))
            for token in itertools.takewhile(lambda token: token != self.tokens.ids.eos, ids[found.prompt_length :]):
                if token != self.tokens.ids.pad:
                    transcript.take_token(token)
            transcript.finish()
            letterbox = Letterbox.fit((width, height), canvas)
            answers.append(
                transcript.answer(
                    self._select(found, row, letterbox),
                    letterbox,
                    grounded=True,
                    model=model,
                    prompt_tokens=int(found.prompt_tokens[row]),
                    image=None,
                )
            )
        return answers

    def _select(self, found: GeneratedPhrases, row: int, letterbox: Letterbox) -> list[PhraseSelection]:
        count = int(found.phrase_mask[row].sum())
        return self.select(found.output, row, count, letterbox) if count else []

    def _encode_images(self, images: Sequence[Any]) -> list[EncodedImage | None]:
        return [None if image is None else self.encode_image(load_image(image, self.image_limits)) for image in images]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `processor(...)` may give."""
        regions = ["region_boxes_cxcywh_norm", "region_types", "region_valid", "region_coverage"]
        return ["input_ids", "attention_mask", *IMAGE_INPUT_NAMES, *regions]

    def _encode_chat(
        self, chat: ParsedChat, image: EncodedImage | None, generate: bool, unfinished: bool, options: TextOptions
    ) -> EncodedText:
        """A chat from the same pieces as in training and in the engine."""
        template = self.settings.template
        if chat.system is not None:
            template = replace(template, system=chat.system)
        pieces = dialogue_pieces(template, chat.messages, chat.grounded)
        if image is None:
            pieces = [piece for piece in pieces if piece.kind != "image"]
        question_last = chat.messages[-1].role == "user"
        if question_last and not generate:
            pieces[-1] = replace(pieces[-1], text=pieces[-1].text.removesuffix(template.assistant))
        return self._encode_fitting(pieces, chat.prompts, image, unfinished and not question_last, options)

    def _encode_prompt(
        self,
        text: str,
        image: EncodedImage | None,
        prompts: Sequence[VisualPrompt],
        grounded: bool,
        options: TextOptions,
    ) -> EncodedText:
        """A prompt written out, or a plain question."""
        if image is not None and IMAGE not in text:
            check_question(text, len(prompts))
            question = ParsedChat((Message("user", text, tuple(prompts)),), (grounded,), None, None)
            return self._encode_chat(question, image, True, False, options)
        if text.count(IMAGE) != (image is not None):
            images = f"{int(image is not None)} image{'s' * (image is None)}"
            raise PromptError(f"a prompt must have one {IMAGE} per image, got {text.count(IMAGE)} for {images}")
        template, begin = self.settings.template, self.tokenizer.bos_token
        if template.begin and isinstance(begin, str):
            text = text.removeprefix(begin)
        pieces, unfinished = prompt_pieces(template, text, self._end, len(prompts))
        if template.begin:
            pieces = [PromptPiece("", "begin"), *pieces]
        if sum(piece.num_regions for piece in pieces) != len(prompts):
            raise PromptError(f"a prompt must have one {markup.REGION} per region, got too few for {len(prompts)}")
        return self._encode_fitting(pieces, prompts, image, unfinished, options)

    def _encode_fitting(
        self,
        pieces: Sequence[PromptPiece],
        prompts: Sequence[VisualPrompt],
        image: EncodedImage | None,
        unfinished: bool,
        options: TextOptions,
    ) -> EncodedText:
        """A text that is no longer than the options and the model allow: cut, or refused."""
        if options.add_special_tokens is False:
            pieces = [piece for piece in pieces if piece.kind != "begin"]
        # Without a cut, what is too long for the model is refused before it costs anything.
        text = self._encode_pieces(
            pieces, prompts, _letterbox(image, prompts), None if options.cuts else self.max_tokens
        )
        if unfinished:
            text = replace(text, input_ids=text.input_ids[:-1], loss_mask=text.loss_mask[:-1])
        limits = [limit for limit in (options.max_length, self.max_tokens) if limit is not None]
        if not limits or len(text.input_ids) <= min(limits):
            return text
        if not options.cuts:
            tokens = len(text.input_ids)
            raise UsageError(
                f"a text has {tokens} tokens, over max_length={min(limits)}; give truncation=True to cut it"
            )
        return self._cut(text, min(limits))

    def _cut(self, text: EncodedText, length: int) -> EncodedText:
        placeholders = {self.tokens.ids.image, self.tokens.ids.region}
        needed = max((place for place, token in enumerate(text.input_ids, 1) if token in placeholders), default=0)
        if length < needed:
            raise UsageError(
                f"a text cut to {length} tokens would lose a part of its image or a region; it needs at least {needed}"
            )
        return replace(text, input_ids=text.input_ids[:length], loss_mask=text.loss_mask[:length])

    @property
    def _end(self) -> str:
        end = self.tokenizer.eos_token
        assert isinstance(end, str)
        return end

    def _batch(
        self, rows: Sequence[EncodedText], encoded: Sequence[EncodedImage | None], options: TextOptions
    ) -> GroundingBatch:
        texts = self._collate(rows, options)
        data: dict[str, torch.Tensor] = {name: texts[name] for name in ("input_ids", "attention_mask")}
        images = [image for image in encoded if image is not None]
        if images:
            if len(images) != len(rows):
                counts = f"got {len(images)} for {len(rows)} texts"
                raise PromptError(f"each text of a batch must have an image, or none of them, {counts}")
            data |= image_tensors(images, self.collate_images)
        prompts = self.collate_prompts([row.prompts for row in rows])
        if prompts is not None:
            data |= {
                "region_boxes_cxcywh_norm": prompts.boxes_cxcywh_norm,
                "region_types": prompts.types,
                "region_valid": prompts.valid,
            }
            data |= {} if prompts.coverage is None else {"region_coverage": prompts.coverage}
        return GroundingBatch(data)

    def _collate(self, rows: Sequence[EncodedText], options: TextOptions) -> dict[str, torch.Tensor]:
        lengths = sorted({len(row.input_ids) for row in rows})
        if not options.pads and len(lengths) > 1:
            raise UsageError(f"texts of {lengths[0]} to {lengths[-1]} tokens make no batch without padding=True")
        length = options.padded_length(lengths[-1]) if options.pads else None
        return self.collate_texts(rows, options.padding_side or "left", length)


def _asked_options(kwargs: dict[str, Any], processor_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `processor(...)` among the arguments of `apply_chat_template`, taken out of `kwargs`."""
    asked = {**{name: kwargs.pop(name) for name in list(kwargs) if name in STANDARD_NAMES}, **processor_kwargs}
    if asked.get("sanitize_control_tokens"):  # what a message says never is one
        del asked["sanitize_control_tokens"]
    return asked


def _check_variables(variables: Mapping[str, Any], template: str) -> None:
    """Refuse what a template does not know."""
    for name, value in variables.items():
        if value is not None and not re.search(rf"\b{re.escape(name)}\b", template):
            raise UsageError(f"apply_chat_template has no argument `{name}`{did_you_mean(name, OPTION_NAMES)}")


def _check_no_use(asked: Mapping[str, Any]) -> None:
    """Refuse what says how to encode where nothing is encoded."""
    name = next((name for name, value in asked.items() if value is not None), None)
    if name is not None:
        raise UsageError(
            f"apply_chat_template renders a text, for which `{name}` has no use; give tokenize=True as well"
        )


def _texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) or not isinstance(text, Iterable | None) else list(text or [])
    if not texts:
        raise UsageError("a processor encodes texts, got none; images alone go to processor.image_processor")
    for each in texts:
        if not isinstance(each, str):
            raise UsageError(f"a text must be text, got {type(each).__name__}")
    return texts


def _is_batch(conversation: Any) -> bool:
    return is_list(conversation) and bool(conversation) and not isinstance(conversation[0], Mapping)


def _one_each(images: Any, count: int) -> list[Any]:
    """One image per text: given alone, in a list, or each in a list of its own."""
    if images is None:
        return [None] * count
    rows = list(images) if isinstance(images, (list, tuple)) else [images]
    rows = list(unwrapped(rows))
    if len(rows) != count:
        texts = f"{count} text{'s' * (count != 1)}"
        raise PromptError(f"there must be one image per text, got {len(rows)} for {texts}")
    return rows


def _prompts_each(regions: Any, count: int, batched: bool) -> list[list[VisualPrompt]]:
    """The visual prompts of each text."""
    rows = [[]] * count if regions is None else list(regions) if batched else [regions]
    if len(rows) != count:
        raise PromptError(f"there must be one list of regions per text, got {len(rows)} for {count} texts")
    for row in rows:
        if not is_list(row):
            raise PromptError(f"regions of a text must be a list of region parts, got {shown(row)}")
    return [[region_prompt(part) for part in row] for row in rows]


def _letterbox(image: EncodedImage | None, prompts: Sequence[VisualPrompt]) -> Letterbox:
    if image is not None:
        return image.letterbox
    if prompts:
        raise PromptError("regions need an image in which they are, got none")
    return Letterbox.fit((1, 1), (1, 1))
