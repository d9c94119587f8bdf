"""What makes the whole model a generating one of transformers: `generate`, and the regions of what it has written.

The image is encoded once, before the first step. A mixin: the steps it stands on are those of the model.
"""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import TransformersKwargs

from llava_grounding.errors import UsageError, did_you_mean
from llava_grounding.model.outputs import GrounderOutput, ImageFeatures, RegionPrompts

if TYPE_CHECKING:
    from llava_grounding.model.config import LlavaGroundingConfig
    from llava_grounding.model.phrase_states import PhraseStates

_IMAGE_INPUTS = ("grounder_pixel_values", "pixel_values", "image_features")
_REGION_INPUTS = ("region_prompts", "region_boxes_cxcywh_norm", "region_types", "region_valid", "region_coverage")
_OTHER_INPUTS = ("input_ids", "attention_mask", "image_sizes", "prompt_embeds", "past_key_values")


@dataclass
class GeneratedPhrases:
    """The regions of what `generate` has written, not thresholded; see `post_process_grounding`."""

    output: GrounderOutput
    """One row per row of the generated ids."""
    phrase_mask: Bool[Tensor, "B G"]
    """Which phrases are real; the k-th belongs to the row's k-th `<seg>` after the prompt."""
    prompt_length: int
    """Positions before the answer, padding on the left included."""
    prompt_tokens: Int[Tensor, " B"]
    """Positions before the answer that are no padding."""


class GroundedGeneration(GenerationMixin):
    """`generate` for a model that encodes an image once, and grounds what it has written."""

    if TYPE_CHECKING:
        config: LlavaGroundingConfig

        def encode_image(self, grounder_pixel_values: Tensor, pixel_values: Tensor | None = None) -> ImageFeatures: ...
        def embed_prompt(
            self, input_ids: Tensor, features: ImageFeatures | None, prompts: RegionPrompts | None, has_past: bool
        ) -> tuple[Tensor, Any]: ...
        def with_prompt_memory(self, features: ImageFeatures, grounder_pixel_values: Tensor) -> ImageFeatures: ...
        @property
        def phrase_rule(self) -> PhraseStates: ...
        def ground_phrases(
            self, features: ImageFeatures, hidden: Tensor, input_ids: Tensor, mask: Tensor
        ) -> tuple[GrounderOutput, Tensor]: ...

    @torch.no_grad()
    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Write answers; the arguments are those of transformers' `generate`, and what `processor(...)` gives.

        Placeholders of image and regions are those of the prompt; one that the model writes is a token like others.

        Args:
            inputs: the prompts' ids, as `input_ids`.
            kwargs: `image_features` from `encode_image` may stand in for the pixels. For regions afterwards ask for
                `return_dict_in_generate=True, output_hidden_states=True` and give the result to `ground_generated`.

        Returns:
            Ids `[B, T]` with the prompt; or transformers' output, which then also has `image_features`.

        Raises:
            UsageError: if the prompt is given as embeddings.
        """
        if kwargs.get("inputs_embeds") is not None:
            raise UsageError("generate reads prompts given as input_ids, not as inputs_embeds")
        kwargs.pop("image_sizes", None)  # the processor's, for the way out
        ids = inputs if kwargs.get("input_ids") is None else kwargs["input_ids"]
        features = None
        if ids is not None and kwargs.get("prompt_embeds") is None:
            features, kwargs["prompt_embeds"] = self._read_prompt(ids, kwargs)
            kwargs["prompt_embeds"] = _after_past(kwargs["prompt_embeds"], kwargs)
        output = super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]
        if not isinstance(output, Tensor):
            output.image_features = features
        return output

    def _read_prompt(self, input_ids: Tensor, inputs: dict[str, Any]) -> tuple[ImageFeatures | None, Tensor]:
        """Take image and regions out of `inputs`: the image's features, and the prompt's embeddings `[B, P, D]`."""
        prompts = RegionPrompts.given(**{name: inputs.pop(name, None) for name in _REGION_INPUTS})
        features = self._features_of(inputs, with_prompts=prompts is not None)
        has_past = positions_read(inputs.get("past_key_values")) > 0
        return features, self.embed_prompt(input_ids, features, prompts, has_past=has_past)[0]

    def _features_of(self, inputs: dict[str, Any], with_prompts: bool) -> ImageFeatures | None:
        """Take the image out of `inputs`, encoded if it is not yet."""
        canvas, pixels = inputs.pop("grounder_pixel_values", None), inputs.pop("pixel_values", None)
        features = inputs.pop("image_features", None)
        if features is None and canvas is not None:
            features = self.encode_image(canvas, pixels)
        if with_prompts and features is not None and canvas is not None:
            features = self.with_prompt_memory(features, canvas)
        return features

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Inputs of one step: the prompt's embeddings only as long as the cache does not hold the whole prompt."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]
        # transformers has checked what it was given; of its own it hands on more, as the tokenizer of `stop_strings`.
        known = {*inspect.signature(type(self).forward).parameters, *TransformersKwargs.__annotations__}  # type: ignore[attr-defined]
        inputs = {name: value for name, value in inputs.items() if name in known}
        embeds = inputs.get("prompt_embeds")
        if embeds is not None and positions_read(inputs.get("past_key_values")) >= embeds.shape[1]:
            del inputs["prompt_embeds"]
        return inputs

    @torch.no_grad()
    def ground_generated(self, generated: Any, **inputs: Any) -> GeneratedPhrases:
        """Find the regions of every phrase that `generate` has written, each row's together, as in training.

        Costs no second pass over image and text where `generated` has hidden states; otherwise the whole is read once
        more. (One with `phrase_state="at_seg"` that was cut right after a `<seg>` is read once more as well.)

        Args:
            generated: what `generate` gave: its output, or the ids `[B, T]`.
            inputs: what `generate` was given.

        Raises:
            UsageError: if there is no image, or an input of a name that `generate` does not know.
        """
        _check_names(inputs)
        sequences = generated if isinstance(generated, Tensor) else generated.sequences
        prompt = inputs.pop("input_ids")
        times = len(sequences) // len(prompt)
        recorded = getattr(generated, "image_features", None)
        inputs |= {} if recorded is None else {"image_features": recorded}
        hidden = self._recorded_states(generated, sequences, prompt.shape[1])
        real = torch.ones_like(prompt) if inputs.get("attention_mask") is None else inputs["attention_mask"]
        if hidden is None:
            if real.shape != prompt.shape:
                raise UsageError(
                    f"what a kept cache holds cannot be read again: give ground_generated the ids of all "
                    f"{real.shape[1]} positions, or ask generate for output_hidden_states"
                )
            features, embeds = self._read_prompt(prompt, inputs)
        else:
            features = self._features_of(inputs, with_prompts=False)
        if features is None:
            raise UsageError("phrases are grounded in an image: give ground_generated the inputs that generate had")
        if hidden is None:
            hidden = self._read_again(sequences, embeds, times, real)
        features = features.repeat(times) if times > 1 else features
        new = torch.arange(sequences.shape[1], device=sequences.device) >= prompt.shape[1]
        output, mask = self.ground_phrases(features, hidden, sequences, new.expand_as(sequences))
        return GeneratedPhrases(
            output=output,
            phrase_mask=mask,
            prompt_length=prompt.shape[1],
            prompt_tokens=real.sum(dim=1).repeat_interleave(times),
        )

    def _recorded_states(
        self, generated: Any, sequences: Int[Tensor, "B T"], prompt_length: int
    ) -> Float[Tensor, "B T C"] | None:
        """Last hidden states of every position, as `generate` has recorded them; None if they are not all there.

        Positions that were not read hold zeros: the last one, and those of a prompt that a kept cache already held.
        """
        steps = None if isinstance(generated, Tensor) else getattr(generated, "hidden_states", None)
        if not steps or self.phrase_rule.lacks_last(sequences):
            return None
        states = [step[-1] for step in steps]
        beams = getattr(generated, "beam_indices", None)
        if len(states) > 1 and states[1].shape[1] > 1:  # without a cache every step reads everything
            if beams is not None:
                return None
            states = states[-1:]
        if beams is not None:  # per token of a row, which beam it went on from; -1 after its end
            states = [state[beams[:, number].clamp(min=0)] for number, state in enumerate(states[: beams.shape[1]])]
        hidden = torch.cat(states, dim=1)[:, : sequences.shape[1] - 1]
        kept = sequences.shape[1] - 1 - hidden.shape[1]
        if kept >= prompt_length:
            return None
        return torch.nn.functional.pad(hidden, (0, 0, kept, 1))

    def _read_again(self, sequences: Tensor, prompt_embeds: Tensor, times: int, attention_mask: Tensor) -> Tensor:
        """Hidden states of prompt and answer, in one pass."""
        mask = attention_mask.repeat_interleave(times, dim=0)
        mask = torch.cat([mask, mask.new_ones(len(sequences), sequences.shape[1] - mask.shape[1])], dim=1)
        output = self(  # type: ignore[operator]
            input_ids=sequences,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            prompt_embeds=prompt_embeds.repeat_interleave(times, dim=0),
            use_cache=False,
            logits_to_keep=1,
        )
        return output.last_hidden_state


def positions_read(past_key_values: Any) -> int:
    """How many positions a key/value cache holds; None holds none."""
    return 0 if past_key_values is None else int(past_key_values.get_seq_length())


def _after_past(prompt_embeds: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Embeddings of the whole sequence where a kept cache goes before the ids: the mask is then longer than they are.

    The cache's own positions are never read again and hold zeros.
    """
    cache, mask = inputs.get("past_key_values"), inputs.get("attention_mask")
    if cache is None or mask is None or mask.shape[1] <= prompt_embeds.shape[1]:
        return prompt_embeds
    return torch.nn.functional.pad(prompt_embeds, (0, 0, mask.shape[1] - prompt_embeds.shape[1], 0))


def _check_names(inputs: dict[str, Any]) -> None:
    known = (*_IMAGE_INPUTS, *_REGION_INPUTS, *_OTHER_INPUTS, *vars(GenerationConfig()))
    for name in inputs:
        if name not in known:
            raise UsageError(f"ground_generated takes what generate was given, got `{name}`{did_you_mean(name, known)}")
