"""LoRA adapters of peft on the language model: trained a step, saved, loaded, and the answers are the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_grounding.inference.engine import GroundedChat
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from tiny_model import picture, saying, tiny_config, tiny_processor, tiny_weights

peft = pytest.importorskip("peft")

IMAGE = picture(4)
TARGETS = r"language_model\..*\.(q_proj|v_proj)"
GROUNDED = "<g_s> The dog <g_e> <seg>."


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Adapters start from random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def fresh() -> LlavaGroundingForConditionalGeneration:
    return tiny_weights(tiny_config("separate"))


PROCESSOR = tiny_processor(tiny_config("separate"))


def lora() -> Any:
    return peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM")


def inputs(answer: str | None = None) -> Any:
    chat = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "Where is it?"}]}]
    if answer is None:
        return PROCESSOR.apply_chat_template(chat, tokenize=True, return_dict=True, add_generation_prompt=True)
    chat.append({"role": "assistant", "content": answer})
    batch = PROCESSOR.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    batch["labels"] = batch["input_ids"].masked_fill(batch.pop("assistant_masks") == 0, -100)
    return batch


def train_a_step(model: Any) -> None:
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.5)
    model.train()
    model(**inputs(GROUNDED)).loss.backward()
    optimizer.step()
    model.eval()


def answers(model: Any) -> tuple[list[int], float]:
    """Greedy ids, and the score of a phrase."""
    ids = model.generate(**inputs(), max_new_tokens=6, do_sample=False)[0].tolist()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    chat = GroundedChat(base, PROCESSOR)
    with saying(chat, GROUNDED):
        return ids, chat.ask(IMAGE, "Where is it?").phrases[0].score


def assert_same(found: tuple[list[int], float], wanted: tuple[list[int], float]) -> None:
    assert found[0] == wanted[0]
    assert found[1] == pytest.approx(wanted[1], abs=1e-5)


def test_an_adapter_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    before = answers(fresh())
    adapted = peft.get_peft_model(fresh(), lora())
    learning = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert learning
    assert all("language_model" in name and "lora_" in name for name in learning)
    start = {name: weight.detach().clone() for name, weight in adapted.named_parameters()}
    train_a_step(adapted)
    moved = {name for name, weight in adapted.named_parameters() if not torch.equal(weight, start[name])}
    assert moved == learning
    wanted = answers(adapted)
    assert wanted[1] != pytest.approx(before[1], abs=1e-4)
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 60_000
    loaded = peft.PeftModel.from_pretrained(fresh(), tmp_path).eval()
    assert_same(answers(loaded), wanted)
    merged_ids, merged_score = answers(loaded.merge_and_unload())
    assert merged_ids == wanted[0]
    assert merged_score == pytest.approx(wanted[1], abs=1e-4)


def test_transformers_loads_an_adapter_by_itself(tmp_path: Path) -> None:
    adapted = peft.get_peft_model(fresh(), lora()).eval()
    wanted = answers(adapted)
    adapted.save_pretrained(tmp_path)
    model = fresh()
    model.load_adapter(str(tmp_path))
    assert_same(answers(model.eval()), wanted)
