"""The whole model: language side, grounder and visual prompt encoder put together.

Tensors in, tensors out. `ground()` is where each `<seg>` hidden state becomes boxes and masks. An image is encoded
once (`encode_image`) and serves any number of questions, phrases and prompts.
"""

import inspect
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, GenerationMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import TransformersKwargs

from llava_grounding.errors import ShapeError, UsageError, did_you_mean
from llava_grounding.model.builders import (
    build_grounder,
    build_phrase_projector,
    build_vision_tower,
    build_visual_prompt_encoder,
)
from llava_grounding.model.config import GrounderConfig, LlavaGroundingConfig, VisualPromptConfig
from llava_grounding.model.generation import GroundedGeneration, positions_read
from llava_grounding.model.language import attentions_of, language_loss, put_into_slots, refuse_unfilled
from llava_grounding.model.loading import CheckedLoading, ModelWithoutHead
from llava_grounding.model.model_card import WithModelCard
from llava_grounding.model.outputs import (
    GrounderOutput,
    ImageFeatures,
    ImageMemory,
    LlavaGroundingOutput,
    RegionPrompts,
    VisualPromptOutput,
)
from llava_grounding.model.phrase_states import PhraseStates
from llava_grounding.model.placement import any_trainable, device_of, like, memory_for
from llava_grounding.model.shared_tower import SharedVisionTower


class LlavaGroundingForConditionalGeneration(CheckedLoading, WithModelCard, GroundedGeneration, GenerationMixin):
    """Grounded visual chat model of LLaVA-Grounding (arXiv:2312.02949).

    Visual prompts come as one value, `region_prompts`, or as its parts `region_boxes_cxcywh_norm`, `region_types`,
    `region_valid` and `region_coverage`, which a processor's batch has; `generate` hands on either, with the batch's
    `image_sizes`.
    """

    config_class = LlavaGroundingConfig
    config: LlavaGroundingConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: LlavaGroundingConfig) -> None:
        super().__init__(config)
        # What `device_map` keeps on one device; the language model's layers add themselves.
        self._no_split_modules = ["Grounder", "VisualPromptEncoder", "FeatureVisionTower", "SharedVisionTower"]
        # Boxes and masks need the precision, so no `dtype` of `from_pretrained` touches the modules they come from.
        precise = {"grounder", "visual_prompt_encoder"}
        if config.vision_config is None:  # then the tower reads the grounder's features
            precise |= {"vision_tower", "multi_modal_projector"}
        self._keep_in_fp32_modules_strict = precise
        # These are also what no quantiser touches. In float16 a tower of its own would be in danger of overflow.
        self._keep_in_fp32_modules = precise | {"vision_tower", "multi_modal_projector", "phrase_projector"}
        self.vision_tower, self.multi_modal_projector = build_vision_tower(config)
        self.language_model = AutoModel.from_config(config.text_config, trust_remote_code=False)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.grounder = build_grounder(config.grounder_config)
        self.phrase_projector = build_phrase_projector(config)
        self.visual_prompt_encoder = build_visual_prompt_encoder(
            config.visual_prompt_config, config.text_config.hidden_size
        )
        # Offloading to a disk asks the empty model for the type that a weight is to have, and knows no such list.
        half = torch.get_default_dtype() == torch.float16
        for name in self._keep_in_fp32_modules if half else precise:
            getattr(self, name).float()
        # By object, since its name differs between families of language models (`embed_tokens`, `wte`, ...).
        embedding = next(name for name, part in self.named_modules() if part is self.get_input_embeddings())
        self._tied_weights_keys = {"lm_head.weight": f"{embedding}.weight"}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave every part as its own constructor initialised it."""

    def train(self, mode: bool = True) -> "LlavaGroundingForConditionalGeneration":
        """As in torch, but a wholly frozen part stays in evaluation mode.

        Its batch statistics would move otherwise, and with an adapter on the language model nobody would save them.
        """
        super().train(mode)
        for part in self.children():
            weights = list(part.parameters())
            if mode and weights and not any(weight.requires_grad for weight in weights):
                part.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where inputs belong; also where the first weights are kept elsewhere until they are needed."""
        return device_of(self) or torch.device("cpu")

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def image_memory(self, grounder_pixel_values: Float[Tensor, "B 3 H W"]) -> ImageMemory:
        """The grounder's features of images alone, in its dtype; without gradient where the grounder is frozen.

        Args:
            grounder_pixel_values: see `encode_image`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and any_trainable(self.grounder)):
            return self.grounder.encode_image(like(self.grounder, grounder_pixel_values))

    def encode_image(
        self,
        grounder_pixel_values: Float[Tensor, "B 3 H W"],
        pixel_values: Float[Tensor, "B 3 h w"] | None = None,
        class_embeds: Float[Tensor, "B C D"] | None = None,
        class_mask: Bool[Tensor, "B C"] | None = None,
    ) -> ImageFeatures:
        """Encode images once for all questions.

        Args:
            grounder_pixel_values: the letterboxed canvas, normalised; sides multiples of 32.
            pixel_values: what the vision tower sees; None when it shares the grounder's features.
            class_embeds: phrases that a shared tower's proposals are scored against in every layer, as the losses of
                class names need, where `class_mask` is set; None for none.
        """
        tower, proposals = self.vision_tower, None
        # The phrase that selects the queries is the tower's, but it is frozen with the grounder.
        with torch.set_grad_enabled(torch.is_grad_enabled() and any_trainable(self.grounder)):
            memory = self.image_memory(grounder_pixel_values)
            if isinstance(tower, SharedVisionTower):
                with_aux = class_embeds is not None
                proposals = tower.propose(self.grounder, memory, class_embeds, class_mask, with_aux)
        if isinstance(tower, SharedVisionTower):
            assert proposals is not None
            features = tower.tokens(memory, proposals)
        elif pixel_values is None:
            raise UsageError("pixel_values are needed: this model has a vision tower of its own")
        else:
            features = like(self.multi_modal_projector, tower(like(tower, pixel_values)))
        shared = self.config.visual_prompt_config.share_image_features
        return ImageFeatures(self.multi_modal_projector(features), memory, memory if shared else None, proposals)

    def with_prompt_memory(
        self, features: ImageFeatures, grounder_pixel_values: Float[Tensor, "B 3 H W"]
    ) -> ImageFeatures:
        """Add what the visual prompt encoder reads, if it is not there yet."""
        if features.prompt_memory is not None:
            return features
        canvas = like(self.visual_prompt_encoder, grounder_pixel_values)
        return replace(features, prompt_memory=self.visual_prompt_encoder.encode_image(canvas))

    def encode_regions(
        self, memory: ImageMemory, prompts: RegionPrompts, isolate: bool | None = None, with_aux: bool | None = None
    ) -> VisualPromptOutput:
        """One embedding per visual prompt, in the language model's width.

        Args:
            isolate: prompts of one image do not see each other; None as the config says.
            with_aux: also predict from every earlier layer, as the losses need; None: in training mode.
        """
        isolate = self.config.visual_prompt_config.isolate_prompts if isolate is None else isolate
        memory = memory_for(self.visual_prompt_encoder, memory)
        prompts = prompts.to(memory.memory.device)
        return self.visual_prompt_encoder.encode_prompts(
            memory,
            prompts.boxes_cxcywh_norm,
            prompts.types,
            prompts.valid,
            isolate=isolate,
            region_coverage=prompts.coverage,
            with_aux=with_aux,
        )

    def embed(
        self,
        input_ids: Int[Tensor, "B T"],
        image_tokens: Float[Tensor, "B P D"] | None = None,
        region_embeds: Float[Tensor, "B K D"] | None = None,
        region_valid: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Word embeddings with image and region features in their slots.

        `image_tokens=None` and `region_embeds=None` mean that the text has none to fill (a later turn, or no prompts).
        """
        embeds = self.get_input_embeddings()(self._within_vocabulary(input_ids, image_tokens, region_embeds))
        if image_tokens is not None:
            everywhere = torch.ones(image_tokens.shape[:2], dtype=torch.bool, device=embeds.device)
            slots = input_ids == self.config.image_token_id
            embeds = put_into_slots(embeds, slots, image_tokens, everywhere, "image")
        if region_embeds is not None and region_valid is not None:
            slots = input_ids == self.config.region_token_id
            embeds = put_into_slots(embeds, slots, region_embeds, region_valid, "region")
        return embeds

    def _within_vocabulary(
        self, input_ids: Int[Tensor, "B T"], image_tokens: Tensor | None, region_embeds: Tensor | None
    ) -> Int[Tensor, "B T"]:
        """Ids that all have an embedding: placeholders without one of their own (converted checkpoints) become 0.

        Raises:
            ShapeError: if there is such a placeholder and nothing to fill it with.
        """
        for name, token, features in [
            ("image", self.config.image_token_id, image_tokens),
            ("region", self.config.region_token_id, region_embeds),
        ]:
            if token >= self.config.text_config.vocab_size:
                slots = input_ids == token
                refuse_unfilled(slots, name, features)
                input_ids = input_ids.masked_fill(slots, 0)
        return input_ids

    def embed_prompt(
        self,
        input_ids: Int[Tensor, "B T"],
        features: ImageFeatures | None = None,
        prompts: RegionPrompts | None = None,
        has_past: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], VisualPromptOutput | None]:
        """Embeddings of a prompt, every placeholder of it filled, and what the visual prompt encoder says.

        Args:
            features: with `prompt_memory` if there are visual prompts.
            has_past: the text follows a key/value cache, in which the image already is, if it is not in the text.

        Raises:
            UsageError: if there are visual prompts and no image.
            ShapeError: if placeholders and features do not match in number, or either is there without the other.
        """
        found = None
        if prompts is not None:
            if features is None:
                raise UsageError("visual prompts point into an image, and none was given")
            if features.prompt_memory is None:
                raise UsageError("region_prompts need prompt_memory in image_features, or pixels")
            found = self.encode_regions(features.prompt_memory, prompts)
        for name, token, given in [
            ("image", self.config.image_token_id, features),
            ("region", self.config.region_token_id, found),
        ]:
            if not has_past:
                refuse_unfilled(input_ids == token, name, given)
        in_past = has_past and not bool((input_ids == self.config.image_token_id).any())
        embeds = self.embed(
            input_ids,
            None if features is None or in_past else features.tokens,
            None if found is None else found.region_embeds,
            None if prompts is None else prompts.valid,
        )
        return embeds, found

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        grounder_pixel_values: Float[Tensor, "B 3 H W"] | None = None,
        pixel_values: Float[Tensor, "B 3 h w"] | None = None,
        attention_mask: Tensor | None = None,
        region_prompts: RegionPrompts | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        image_features: ImageFeatures | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        past_key_values: Any = None,
        position_ids: Int[Tensor, "B T"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        region_boxes_cxcywh_norm: Float[Tensor, "B K 4"] | None = None,
        region_types: Int[Tensor, "B K"] | None = None,
        region_valid: Bool[Tensor, "B K"] | None = None,
        region_coverage: Float[Tensor, "B K c d"] | None = None,
        image_sizes: Int[Tensor, "B 2"] | None = None,
        prompt_embeds: Float[Tensor, "B P D"] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> LlavaGroundingOutput | tuple[Any, ...]:
        """Run the language model over text with image and regions in place.

        The text is a prompt: every placeholder in it is filled. Behind a key/value cache it may go on without any.

        Args:
            image_features: from `encode_image`, instead of pixels.
            labels: token ids to learn, -100 elsewhere, unshifted.
            logits_to_keep: compute logits of only that many last positions, or of those positions; 0 means all.
            image_sizes: for the way out; not used here.
            prompt_embeds: from `embed_prompt`, what the first P positions of the sequence are read as; whatever comes
                after them is words, also the id of a placeholder.
            return_dict: False gives a tuple of what is not None.
            kwargs: those that transformers hands to any language model, such as `num_items_in_batch` for the loss.

        Raises:
            UsageError: if an argument is not known, or does not go together with another.
            ShapeError: if placeholders and features do not match in number.
        """
        text_kwargs = _text_arguments(kwargs)
        num_items = text_kwargs.pop("num_items_in_batch", None)
        prompts = RegionPrompts.given(
            region_prompts, region_boxes_cxcywh_norm, region_types, region_valid, region_coverage
        )
        pixels = {"grounder_pixel_values": grounder_pixel_values, "pixel_values": pixel_values}
        image = {**pixels, "image_features": image_features}
        embeds, image_features, prompt_output = self._embed_inputs(
            input_ids, inputs_embeds, prompt_embeds, image, prompts, positions_read(past_key_values)
        )
        if output_attentions:
            text_kwargs["output_attentions"] = True
        outputs = self.language_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            use_cache=use_cache,
            **text_kwargs,
        )
        hidden = outputs.last_hidden_state
        output = LlavaGroundingOutput(
            loss=None if labels is None else language_loss(self.logits, hidden, labels, num_items),
            logits=self._kept_logits(hidden, logits_to_keep) if labels is None or not self.training else None,
            past_key_values=outputs.past_key_values,
            last_hidden_state=hidden,
            hidden_states=(hidden,) if output_hidden_states else None,
            attentions=attentions_of(outputs) if output_attentions else None,
            image_features=image_features,
            prompt_output=prompt_output,
        )
        return output.to_tuple() if return_dict is False else output

    def _kept_logits(self, hidden: Float[Tensor, "B T D"], kept: int | Tensor) -> Float[Tensor, "B N V"]:
        """Logits of so many last positions, 0 for all, or of these positions."""
        return self.logits(hidden[:, slice(-kept, None) if isinstance(kept, int) else kept])

    def _embed_inputs(
        self,
        input_ids: Int[Tensor, "B T"] | None,
        inputs_embeds: Float[Tensor, "B T D"] | None,
        prompt_embeds: Float[Tensor, "B P D"] | None,
        image: dict[str, Any],
        prompts: RegionPrompts | None,
        read: int,
    ) -> tuple[Float[Tensor, "B T D"], ImageFeatures | None, VisualPromptOutput | None]:
        """What the language model reads, the image's features, and what the visual prompt encoder says."""
        if (input_ids is None) == (inputs_embeds is None):
            raise UsageError("the text must be given as input_ids or as inputs_embeds, and not as both")
        if inputs_embeds is not None:
            if prompts is not None or any(value is not None for value in image.values()):
                raise UsageError("inputs_embeds must have image and regions in them already; give input_ids instead")
            return inputs_embeds, None, None
        assert input_ids is not None
        if prompt_embeds is not None:
            return self._embed_after(prompt_embeds, input_ids, read), image["image_features"], None
        features = self._features_of(image, with_prompts=prompts is not None)
        embeds, found = self.embed_prompt(input_ids, features, prompts, has_past=read > 0)
        return embeds, features, found

    def _embed_after(
        self, prompt_embeds: Float[Tensor, "B P D"], input_ids: Int[Tensor, "B T"], read: int
    ) -> Float[Tensor, "B T D"]:
        """Embeddings of the piece of a sequence that begins at position `read`."""
        known = prompt_embeds[:, read : read + input_ids.shape[1]]
        words = self.get_input_embeddings()(input_ids[:, known.shape[1] :])
        if known.shape[2] != words.shape[2]:
            raise ShapeError(
                f"prompt_embeds must have the width of this language model, {words.shape[2]}, got {known.shape[2]}; "
                "an assistant for decoding must read the same embeddings"
            )
        return torch.cat([known.to(words), words], dim=1)

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        """As in the recipes: the language model's layers alone are computed again on the way back.

        The vision modules' outputs are small beside them, and some of those modules keep statistics of every pass.
        """
        self.language_model._set_gradient_checkpointing(enable, *args, **kwargs)

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Scores of every word for what comes next; some families of language models scale or bound them."""
        text, logits = self.config.text_config, self.lm_head(hidden)
        logits = logits * (getattr(text, "logit_scale", None) or 1)  # Cohere
        logits = logits / (getattr(text, "logits_scaling", None) or 1)  # Granite
        bound = getattr(text, "final_logit_softcapping", None)  # Gemma 2
        return logits if bound is None else bound * torch.tanh(logits / bound)

    @property
    def phrase_rule(self) -> PhraseStates:
        """Which hidden state stands for a phrase."""
        return PhraseStates(self.config.seg_token_id, self.config.phrase_state == "at_seg")

    def phrase_states(
        self, hidden: Float[Tensor, "B T D"], input_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, "B G D"], Bool[Tensor, "B G"]]:
        """Collect the hidden state of every phrase, padded to the longest row; detached where the config says so.

        Args:
            hidden: last hidden states of the whole sequence.
            mask: which `<seg>` positions count; None means all.

        Returns:
            Phrase embeddings and which of them are real.
        """
        embeds, phrase_mask = self.phrase_rule.collect(hidden, input_ids, mask)
        return embeds.detach() if self.config.detach_grounding else embeds, phrase_mask

    def ground_phrases(
        self,
        features: ImageFeatures,
        hidden: Float[Tensor, "B T D"],
        input_ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"] | None = None,
        with_aux: bool | None = None,
    ) -> tuple[GrounderOutput, Bool[Tensor, "B G"]]:
        """Ground every phrase of texts that were read; in training, in validation and after `generate`.

        Where the phrases select the queries, all of a text do so together, known or not: those of one answer after
        `generate`, as in chat; in training and validation those of a dialogue, as the original trains.

        Args:
            hidden, mask: as of `phrase_states`.
            with_aux: as of `ground`; True also gives texts without any phrase one that is not real, so that every
                process of a step takes the same way.

        Returns:
            What was found, and which phrases are real.
        """
        embeds, phrase_mask = self.phrase_states(hidden, input_ids, mask)
        if with_aux and not embeds.shape[1]:
            embeds, phrase_mask = nn.functional.pad(embeds, (0, 0, 0, 1)), nn.functional.pad(phrase_mask, (0, 1))
        return self.ground(features.memory, embeds, phrase_mask, features.proposals, with_aux), phrase_mask

    def ground(
        self,
        memory: ImageMemory,
        phrase_embeds: Float[Tensor, "B G D"],
        phrase_mask: Bool[Tensor, "B G"],
        proposals: GrounderOutput | None = None,
        with_aux: bool | None = None,
    ) -> GrounderOutput:
        """Boxes and masks of every phrase: each object query scored against each phrase, not thresholded.

        Args:
            memory: of batch B, or of batch 1 to share one image among all rows.
            phrase_embeds: `<seg>` hidden states, as they leave the language model.
            proposals: the shared tower's queries of `ImageFeatures`; None looks for them again.
            with_aux: see `Grounder.ground`; of use where the phrases select the queries.
        """
        memory = memory_for(self.grounder, memory)
        phrase_embeds = self.phrase_projector(like(self.phrase_projector, phrase_embeds)).to(memory.memory)
        phrase_mask = phrase_mask.to(memory.memory.device)
        if self.config.phrase_queries == "image":
            if proposals is None:
                assert isinstance(self.vision_tower, SharedVisionTower)
                proposals = self.vision_tower.propose(self.grounder, memory)
            return self.grounder.rescore(proposals, phrase_embeds, phrase_mask)
        return self.grounder.ground(memory, phrase_embeds, phrase_mask, with_aux=with_aux)


def _text_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `forward` that go on to the language model.

    Raises:
        UsageError: if one of the others has a value.
    """
    known = TransformersKwargs.__annotations__
    for name, value in kwargs.items():
        if value is not None and name not in known:
            names = [*inspect.signature(LlavaGroundingForConditionalGeneration.forward).parameters, *known]
            raise UsageError(f"forward has no argument `{name}`{did_you_mean(name, names)}")
    return {name: value for name, value in kwargs.items() if value is not None}


# So that transformers' own Auto classes, pipelines and tools read a folder of ours, once this module is imported.
for _config_class in (LlavaGroundingConfig, GrounderConfig, VisualPromptConfig):
    AutoConfig.register(_config_class.model_type, _config_class)
AutoModel.register(LlavaGroundingConfig, ModelWithoutHead)
AutoModelForImageTextToText.register(LlavaGroundingConfig, LlavaGroundingForConditionalGeneration)
# The pipeline asks this list of names, beside the Auto class, whether it says that it cannot serve a model.
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.setdefault(
    LlavaGroundingConfig.model_type, LlavaGroundingForConditionalGeneration.__name__
)
