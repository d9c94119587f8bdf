"""The page that goes with a saved model: what it is, how large, how to ask it.

Text of what the configuration says; it claims nothing about training data, quality or licence, which it cannot know.
"""

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from llava_grounding.model.config import LlavaGroundingConfig

_FILE = "README.md"
_EMPTY = "[More Information Needed]"  # in the page that transformers makes up where there is none

_CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- llava-grounding
- visual-grounding
- segmentation
---

# {title}

A grounded visual chat model, as in LLaVA-Grounding (arXiv:2312.02949): it answers questions about an image, and ties
the noun phrases of its answers to boxes and masks. It also takes clicks, boxes, scribbles and masks as questions.

| part | |
|---|---|
{parts}

{parameters:,} parameters. An image takes {image_tokens} positions of the language model.

## Use

Needs the package `llava-grounding`.

    from llava_grounding import GroundedChat

    chat = GroundedChat.from_pretrained("{name}")
    answer = chat.ask("photo.jpg", "Describe the image.")
    for phrase in answer.phrases:
        print(phrase.text, [region.box_xyxy for region in phrase.regions])

Or with transformers alone:

    import llava_grounding
    from transformers import pipeline

    llava_grounding.register()  # makes the Auto classes know the model
    ask = pipeline("image-text-to-text", model="{name}")

## To be filled in

Training data, measured quality, limits and licence.
"""


def model_card(config: LlavaGroundingConfig, parameters: int, name: str) -> str:
    """The page in Markdown.

    Args:
        parameters: how many the model has.
        name: of the folder or the repository.
    """
    tower = "reads the grounder's features" if config.vision_config is None else config.vision_config.model_type
    prompts = config.visual_prompt_config
    grounder = config.grounder_config
    rows = {
        "language model": f"{config.text_config.model_type}, width {config.text_config.hidden_size}",
        "vision tower": tower,
        "grounder": f"{grounder.backbone_config.model_type}, {grounder.num_queries} queries",
        "visual prompts": "share the grounder's features" if prompts.share_image_features else "features of their own",
    }
    return _CARD.format(
        title=Path(name).name,
        parts="\n".join(f"| {what} | {text} |" for what, text in rows.items()),
        parameters=parameters,
        image_tokens=config.image_sequence_length,
        name=name,
    )


class WithModelCard(PreTrainedModel):
    """Writes the page beside the weights, in a folder or on the hub. A page that somebody wrote stays."""

    config: LlavaGroundingConfig

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers, with a model card where the folder has none."""
        # Else parts are renamed to what transformers called them once, and the file no longer fits the model.
        kwargs.setdefault("save_original_format", False)
        if kwargs.get("is_main_process", True):
            self._write_card(Path(save_directory), Path(save_directory).resolve().name)
        super().save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **kw: Any) -> Any:
        """What `push_to_hub` ends with, once folder and repository are known."""
        self._write_card(Path(working_dir), repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kw)

    def _write_card(self, folder: Path, name: str) -> None:
        path = folder / _FILE
        if path.is_file() and _EMPTY not in path.read_text(encoding="utf-8"):
            return
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(model_card(self.config, self.num_parameters(), name), encoding="utf-8")
