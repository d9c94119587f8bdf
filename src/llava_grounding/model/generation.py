"""What makes the whole model a generating one of transformers: `generate`, and the regions of what it has written.

The image is encoded once, before the first step. A mixin: the steps it stands on are those of the model.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationMixin

from llava_grounding.errors import UsageError
from llava_grounding.model.outputs import GrounderOutput, ImageFeatures

if TYPE_CHECKING:
    from llava_grounding.model.config import LlavaGroundingConfig

_REGION_INPUTS = ("region_boxes", "region_types", "region_mask", "region_coverage")
# Read with the prompt; with a key/value cache no later step needs them.
_PROMPT_INPUTS = ("image_features", "region_prompts", *_REGION_INPUTS)


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
    """`generate` for a model that looks at an image once, and grounds what it has written."""

    if TYPE_CHECKING:
        config: LlavaGroundingConfig

        def encode_image(self, grounder_pixel_values: Tensor, pixel_values: Tensor | None = None) -> ImageFeatures: ...
        def with_prompt_memory(self, features: ImageFeatures, grounder_pixel_values: Tensor) -> ImageFeatures: ...
        def phrase_states(self, hidden: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]: ...
        def ground(self, memory: Any, phrase_embeds: Tensor, phrase_mask: Tensor) -> GrounderOutput: ...

    @torch.no_grad()
    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Write answers; the arguments are those of transformers' `generate`, and what `processor(...)` gives.

        Args:
            kwargs: `image_features` from `encode_image` may stand in for the pixels. For regions afterwards ask for
                `return_dict_in_generate=True, output_hidden_states=True` and give the result to `ground_generated`.

        Returns:
            Ids `[B, T]` with the prompt; or transformers' output, which then also has `image_features`.
        """
        kwargs.pop("image_sizes", None)  # the processor's, for the way out
        prompts = kwargs.get("region_boxes") is not None or kwargs.get("region_prompts") is not None
        features = self._look(kwargs, with_prompts=prompts)
        kwargs["image_features"] = features
        output = super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]
        if not isinstance(output, Tensor):
            output.image_features = features
        return output

    def _look(self, inputs: dict[str, Any], with_prompts: bool) -> ImageFeatures | None:
        """Take the image out of `inputs`, encoded if it is not yet."""
        canvas, pixels = inputs.pop("grounder_pixel_values", None), inputs.pop("pixel_values", None)
        features = inputs.pop("image_features", None)
        if features is None and canvas is not None:
            features = self.encode_image(canvas, pixels)
        if with_prompts and features is not None and canvas is not None:
            features = self.with_prompt_memory(features, canvas)
        return features

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of one step: the image and the regions only where the prompt is read."""
        kwargs["is_first_iteration"] = is_first_iteration
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in _PROMPT_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Rows repeated for beams and for several answers; transformers repeats tensors, these are more than that."""
        features = kwargs.pop("image_features", None)
        if features is not None and expand_size > 1:
            features = features.repeat(expand_size)
        sizes: dict[str, Any] = {"expand_size": expand_size, "is_encoder_decoder": is_encoder_decoder}
        ids, kwargs = super()._expand_inputs_for_generation(input_ids=input_ids, **sizes, **kwargs)  # type: ignore[misc]
        return ids, {**kwargs, "image_features": features}

    @torch.no_grad()
    def ground_generated(self, generated: Any, **inputs: Any) -> GeneratedPhrases:
        """Find the regions of every phrase that `generate` has written, each row's together, as in training.

        Costs no second pass over image and text where `generated` has hidden states; otherwise the whole is read once
        more. (One with `phrase_state="at_seg"` that was cut right after a `<seg>` is read once more as well.)

        Args:
            generated: what `generate` gave: its output, or the ids `[B, T]`.
            inputs: what `generate` was given.

        Raises:
            UsageError: if there is no image.
        """
        sequences = generated if isinstance(generated, Tensor) else generated.sequences
        prompt = inputs["input_ids"]
        times = len(sequences) // len(prompt)
        features = getattr(generated, "image_features", None)
        if features is None:
            prompts = inputs.get("region_boxes") is not None
            features = self._look(inputs, with_prompts=prompts)
        if features is None:
            raise UsageError("phrases are grounded in an image: give ground_generated the inputs that generate had")
        features = features.repeat(times) if times > 1 else features
        new = torch.arange(sequences.shape[1], device=sequences.device) >= prompt.shape[1]
        hidden = self._recorded_states(generated, sequences)
        if hidden is None:
            hidden = self._read_again(sequences, prompt, features, times, inputs)
        embeds, mask = self.phrase_states(hidden, sequences, new.expand_as(sequences))
        real = inputs.get("attention_mask", torch.ones_like(prompt))
        return GeneratedPhrases(
            output=self.ground(features.memory, embeds, mask),
            phrase_mask=mask,
            prompt_length=prompt.shape[1],
            prompt_tokens=real.sum(dim=1).repeat_interleave(times),
        )

    def _recorded_states(self, generated: Any, sequences: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"] | None:
        """Last hidden states of every position, as `generate` has recorded them; None if they are not all there.

        The last position, which was not read any more, holds zeros.
        """
        steps = None if isinstance(generated, Tensor) else getattr(generated, "hidden_states", None)
        cut = self.config.phrase_state == "at_seg" and bool((sequences[:, -1] == self.config.seg_token_id).any())
        if not steps or cut:
            return None
        states = [step[-1] for step in steps]
        beams = getattr(generated, "beam_indices", None)
        if beams is not None:  # per token of a row, which beam it went on from; -1 after its end
            states = [state[beams[:, number].clamp(min=0)] for number, state in enumerate(states[: beams.shape[1]])]
        hidden = torch.cat(states, dim=1)[:, : sequences.shape[1] - 1]
        missing = sequences.shape[1] - hidden.shape[1]
        return torch.nn.functional.pad(hidden, (0, 0, 0, missing))

    def _read_again(
        self, sequences: Tensor, prompt: Tensor, features: ImageFeatures, times: int, inputs: dict[str, Any]
    ) -> Tensor:
        """Hidden states of prompt and answer, in one pass."""
        mask: Tensor = inputs["attention_mask"] if "attention_mask" in inputs else torch.ones_like(prompt)
        mask = mask.repeat_interleave(times, dim=0)
        mask = torch.cat([mask, mask.new_ones(len(sequences), sequences.shape[1] - prompt.shape[1])], dim=1)
        regions = {name: inputs[name] for name in _REGION_INPUTS if inputs.get(name) is not None}
        output = self(  # type: ignore[operator]
            input_ids=sequences,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            image_features=features,
            use_cache=False,
            logits_to_keep=1,
            **{name: value.repeat_interleave(times, dim=0) for name, value in regions.items()},
        )
        return output.last_hidden_state
