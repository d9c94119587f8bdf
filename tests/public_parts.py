"""Public checkpoints in small: LLaVA in its layouts, a Llama, a CLIP tower, OpenSeeD and Semantic-SAM.

The LLaVA is transformers' own; the vision modules are the recorded ones under the keys of their repositories.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_grounding.convert.llava import LlavaSettings
from llava_grounding.convert.piece_model import build_tokenizer, read_pieces
from small_release import FIXTURE
from whole_models import FLAVOURS

GOLDEN = Path(__file__).parent / "golden"
WORDS, PADDED = 1400, 1440
"""Of the vocabulary, and rows of transformers' layout: with `<image>`, `<pad>` and what fills it up."""
IMAGE, PAD = 1400, 1401
PREDICTOR = "sem_seg_head.predictor."
SMALL = FLAVOURS["official"]
FRESH = LlavaSettings(
    image_size=128, num_queries=8, grounder=SMALL["grounder_config"], visual_prompts=SMALL["visual_prompt_config"]
)
"""Vision modules that start fresh, and are small."""
_TEXT = {
    "model_type": "llama",
    "vocab_size": PADDED,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
}
_TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@cache
def llava() -> LlavaForConditionalGeneration:
    """A small LLaVA-1.5 of transformers with random weights; nobody may change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlavaForConditionalGeneration(
            LlavaConfig(text_config=_TEXT, vision_config=_TOWER, image_token_index=IMAGE, image_seq_length=4)
        )
        for weight in model.parameters():
            torch.nn.init.normal_(weight, mean=float(weight.ndim == 1), std=0.3)
    return model.eval()


def in_layout(layout: str) -> dict[str, Tensor]:
    """Its weights under the keys of `transformers-4`, `transformers-5`, `llava` (no tower), `clip` or `llama`."""
    state = {key: tensor.clone() for key, tensor in llava().state_dict().items()}
    if layout == "transformers-5":
        return state
    plain: dict[str, Tensor] = {}
    for key, tensor in state.items():
        part, _, inner = key.removeprefix("model.").partition(".")
        if part == "language_model":
            plain[f"language_model.model.{inner}" if layout == "transformers-4" else f"model.{inner}"] = tensor
        elif part == "lm_head":
            plain["language_model.lm_head.weight" if layout == "transformers-4" else "lm_head.weight"] = tensor
        elif part == "vision_tower":
            plain[("vision_tower." if layout == "transformers-4" else "") + f"vision_model.{inner}"] = tensor
        else:
            kind = inner.rpartition(".")[2]
            place = {"linear_1": "0", "linear_2": "2"}[inner.partition(".")[0]]
            plain[
                key.removeprefix("model.") if layout == "transformers-4" else f"model.mm_projector.{place}.{kind}"
            ] = tensor
    if layout == "transformers-4":
        return plain
    if layout == "clip":
        return {key: tensor for key, tensor in plain.items() if key.startswith("vision_model.")}
    plain = {key: tensor for key, tensor in plain.items() if not key.startswith("vision_model.")}
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    plain |= {key: plain[key][:WORDS].contiguous() for key in tables}
    return {key: tensor for key, tensor in plain.items() if layout == "llava" or "mm_projector" not in key}


def write_llava(folder: Path, layout: str, state: Mapping[str, Tensor] | None = None, **values: Any) -> Path:
    """A folder in a layout of `in_layout`; `values` change its config.json."""
    folder.mkdir(parents=True)
    save_file(dict(in_layout(layout) if state is None else state), folder / "model.safetensors")
    whole = json.loads(llava().config.to_json_string(use_diff=False))
    if layout.startswith("transformers"):
        config = {name: whole[name] for name in ("model_type", "text_config", "vision_config", "vision_feature_layer")}
        config |= {"projector_hidden_act": "gelu", "vision_feature_select_strategy": "default"}
    else:
        config = {**_TEXT, "model_type": layout, "vocab_size": WORDS, "rope_theta": 10000.0}
    if layout == "llava":
        tower = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": -2}
        config |= tower | {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad", "mm_use_im_start_end": False}
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")
    _write_tokenizer(folder, layout)
    return folder


def write_tower(folder: Path) -> Path:
    """A folder of the CLIP alone, its text side included."""
    folder.mkdir(parents=True)
    texts = {"text_model.final_layer_norm.weight": torch.ones(8), "logit_scale": torch.ones(())}
    save_file(in_layout("clip") | texts, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": _TOWER}), encoding="utf-8")
    return folder


def _write_tokenizer(folder: Path, layout: str) -> None:
    pieces = folder / "tokenizer.model"
    pieces.write_bytes(b64decode(FIXTURE["sentencepiece_model_base64"]))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    if layout.startswith("transformers"):
        tokenizer = build_tokenizer(read_pieces(pieces))
        tokenizer.add_special_tokens([AddedToken("<image>", normalized=False), AddedToken("<pad>", normalized=False)])
        tokenizer.save(str(folder / "tokenizer.json"))
        settings["pad_token"] = "<pad>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def openseed_state_dict() -> dict[str, Tensor]:
    """The recorded grounding model as OpenSeeD has it: with its text encoder, and classes in that encoder's width."""
    state = dict(load_file(GOLDEN / "A_grounding" / "weights.safetensors"))
    width = state[f"{PREDICTOR}class_embed"].shape[0]
    del state[f"{PREDICTOR}logit_scale"]
    text = f"{PREDICTOR}lang_encoder."
    return state | {
        f"{PREDICTOR}class_embed": torch.ones(width, 12),
        f"{PREDICTOR}lang_mapper": torch.ones(12, width),
        f"{text}lang_proj": torch.ones(12, 12),
        f"{text}logit_scale": torch.ones(()),
        f"{text}lang_encoder.token_embedding.weight": torch.ones(20, 12),
        f"{text}lang_encoder.resblocks.0.attn.in_proj_weight": torch.ones(36, 12),
    }


def semantic_sam_state_dict(tokens: int = 6) -> dict[str, Tensor]:
    """The recorded prompt encoder as Semantic-SAM has it: with `tokens` queries per prompt, and no language model."""
    state = dict(load_file(GOLDEN / "B_visual_prompt" / "weights.safetensors"))
    state = {key: tensor for key, tensor in state.items() if not key.startswith(("obj_projector", "logit_scale"))}
    recorded = state[f"{PREDICTOR}mask_tokens.weight"]
    more = torch.linspace(-1, 1, tokens * recorded.shape[1]).view(tokens, -1)
    more[: len(recorded)] = recorded[:tokens]
    return state | {f"{PREDICTOR}mask_tokens.weight": more}


def save(state: Mapping[str, Tensor], path: Path, prefix: str = "", wrapped: bool = False) -> Path:
    """A pickled file of prefixed keys, perhaps under `model` with what a training program puts beside it."""
    whole: dict[str, Any] = {prefix + key: tensor for key, tensor in state.items()}
    torch.save({"model": whole, "iteration": 7} if wrapped else whole, path)
    return path
