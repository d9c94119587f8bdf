"""The recorded numbers are met, and the checker that says so cannot be fooled."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import check
import group_a
import group_b
import group_c
import group_d
import group_e
import pytest
import torch
from ledger import Ledger, Table, first_fit
from safetensors.torch import load_file, save_file
from tolerances import TOLERANCES, compare
from torch import Tensor

HERE = Path(__file__).parent
GROUPS = ("A_grounding", "B_visual_prompt", "C_inference", "D_training", "E_training_language")
TABLES = {
    "A_grounding": (group_a.IMAGE_TABLE, group_a.CASE_TABLE),
    "B_visual_prompt": (group_b.IMAGE_TABLE, group_b.CASE_TABLE),
    "C_inference": (group_c.CASE_TABLE, group_c.WORDS_TABLE),
    "D_training": (group_d.TABLE,),
    "E_training_language": (
        group_e.SAMPLES_TABLE,
        group_e.STAGE_TABLE,
        group_e.PROMPT_TABLE,
        group_e.POSITIONS_TABLE,
    ),
}


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and printed text."""
    return check.main([str(folder)]), capsys.readouterr().out


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A copy of the smallest group that may be spoilt."""
    return Path(shutil.copytree(HERE / "B_visual_prompt", tmp_path / "B_visual_prompt"))


def test_the_model_meets_every_recorded_number(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(HERE, capsys)
    assert code == 0, text
    for group in GROUPS:
        assert f"pass  {HERE / group}: " in text
        optional = {pattern for table in TABLES[group] for pattern in table.optional}
        patterns = {pattern for table in TABLES[group] for pattern in table.compared}
        for pattern in patterns - optional:
            assert f"pass  {pattern} " in text, pattern
    assert "FAIL" not in text


def spoil(value: Tensor) -> Tensor:
    """A different tensor of the same shape and type, further off than any tolerance."""
    if value.dtype == torch.uint8:
        return 1 - value
    return value + 1 + (value * 0.5 if value.is_floating_point() else 0)


def spoil_group(folder: Path, inputs: tuple[str, ...]) -> None:
    """Change everything but the inputs and the weights."""
    for path in folder.glob("*.safetensors"):
        if not path.name.endswith("weights.safetensors"):
            recorded = load_file(path)
            kept = {name: value for name, value in recorded.items() if first_fit(name, inputs) is not None}
            save_file({name: spoil(value) for name, value in recorded.items()} | kept, path)
    cases = json.loads((folder / "cases.json").read_text())
    stages = [case for name, case in cases.items() if name.startswith("stage")] if isinstance(cases, dict) else cases
    for case in stages or cases["cases"]:
        spoil_numbers(case)
    (folder / "cases.json").write_text(json.dumps(cases))
    if folder.name == "C_inference":
        spoil_words(folder)
    if folder.name == "E_training_language":
        positions = json.loads((folder / "positions.json").read_text())
        for case in positions:
            spoil_numbers(case)
        (folder / "positions.json").write_text(json.dumps(positions))


def spoil_words(folder: Path) -> None:
    """Change what group C has as text and numbers."""
    fixture = json.loads((folder / "tokenizer_fixture.json").read_text())
    for case in fixture["cases"]:
        case["ids"][-1] += 1
    (folder / "tokenizer_fixture.json").write_text(json.dumps(fixture))
    for name, key in (("prompts.json", "input_ids"), ("prompt_coordinates.json", "points")):
        cases = json.loads((folder / name).read_text())
        for case in cases:
            case[key] = [0]
        (folder / name).write_text(json.dumps(cases))


@pytest.mark.slow
def test_a_change_in_any_tensor_group_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for group in GROUPS:
        shutil.copytree(HERE / group, tmp_path / group)
        spoil_group(tmp_path / group, tuple(p for table in TABLES[group] for p in table.inputs))
    code, text = run(tmp_path, capsys)
    assert code == 1
    lines = [line for line in text.splitlines() if " x  " in line]
    assert len(lines) == 119
    assert [line for line in lines if "FAIL" not in line] == []


def spoil_numbers(case: dict) -> None:
    for phrases in case.get("matched_index_at_threshold", {}).values():
        phrases[:] = [[*queries, 29] for queries in phrases]
    for name in ("grad_norms", "weight_dict"):
        case[name] = {key: value * 1.1 + 1 for key, value in case.get(name, {}).items()}
    for name in POSITIONS & case.keys():
        nested = isinstance(case[name][0], list)
        case[name] = [[place + 1 for place in row] for row in case[name]] if nested else [p + 1 for p in case[name]]
    case["num_masks_normaliser"] = 2.0
    case["output_text"] = "Something else."


POSITIONS = {
    "training_positions",
    "inference_positions",
    "phrase_positions_in_spliced_sequence",
    "visual_prompt_positions_in_input_ids",
}
CASE, IMAGE, WEIGHTS = "image0_multi.safetensors", "image0.safetensors", "weights.safetensors"
SPOILT: dict[str, Callable[[Path], object]] = {
    "FAIL  pred.ious": lambda b: edit(b / CASE, lambda tensors: tensors["pred.ious"].view(-1)[4:5].add_(0.01)),
    "missing tensor `pred.ious`": lambda b: edit(b / CASE, lambda tensors: tensors.pop("pred.ious")),
    "missing tensor `in.points`": lambda b: edit(b / CASE, lambda tensors: tensors.pop("in.points")),
    "unknown tensor `new`": lambda b: edit(b / IMAGE, lambda tensors: tensors.update(new=torch.ones(2))),
    "unknown key `stray`": lambda b: edit(b / WEIGHTS, lambda tensors: tensors.update(stray=torch.ones(2))),
    "missing file image0.safetensors": lambda b: (b / IMAGE).unlink(),
    "unknown file image7.safetensors": lambda b: shutil.copy(b / IMAGE, b / "image7.safetensors"),
    "stopped by JSONDecodeError": lambda b: (b / "cases.json").write_text("{"),
}


@pytest.mark.parametrize("message", SPOILT)
def test_what_is_wrong_missing_or_unknown_is_named(
    prompts: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    SPOILT[message](prompts)
    code, text = run(prompts, capsys)
    assert code == 1
    assert message in text


def test_losses_say_where_their_weights_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(HERE / "D_training", tmp_path / "D_training")
    code, text = run(tmp_path / "D_training", capsys)
    assert code == 1
    assert f"expected at {tmp_path / 'A_grounding' / 'weights.safetensors'} or beside cases.json" in text


def test_unknown_groups_are_named_as_skipped_and_nothing_to_check_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("F_evaluation", "something"):
        (tmp_path / name).mkdir()
    code, text = run(tmp_path, capsys)
    assert code == 2
    assert "F_evaluation: skipped" in text
    assert "something: skipped" in text
    assert "nothing to check" in text
    assert run(tmp_path / "nowhere", capsys)[0] == 2


def test_groups_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("seed7/A_grounding", "seed7/D_training_small", "seed8/B_visual_prompt", "__pycache__"):
        (tmp_path / name).mkdir(parents=True)
    found = [str(path.relative_to(tmp_path)) for path in check.find_groups(tmp_path)]
    assert found == ["seed7/A_grounding", "seed7/D_training_small", "seed8/B_visual_prompt"]


@pytest.mark.parametrize(
    ("tolerance", "ours", "recorded", "ok"),
    [
        ("E", [1.0, 2.0], [1.0, 2.0], True),
        ("E", [1.0, 2.0], [1.0, 2.0000001], False),
        ("E", [1.0, 2.0], [2.0, 1.0], False),
        ("F", [1.0, 1000.0], [1.00129, 1001.0], True),
        ("F", [1.0], [1.0014], False),
        ("F", [torch.inf, -torch.inf], [torch.inf, -torch.inf], True),
        ("F", [torch.inf], [-torch.inf], False),
        ("F", [torch.inf], [1.0], False),
        ("F", [torch.nan], [torch.nan], False),
        ("F", [1.0], [1.0, 1.0], False),
        ("L", [-100.0, 1.0], [-100.0, 1.004], True),
        ("L", [-99.999, 1.0], [-100.0, 1.0], False),
        ("L", [-100.0], [-99.999], False),
        ("B", [1.0] * 999 + [-1.0], [1.0] * 1000, True),
        ("B", [1.0] * 997 + [-1.0] * 3, [1.0] * 1000, False),
        ("G", [1.0, 1.001], [1.0, 1.0], True),
        ("G", [1.0, 1.01], [1.0, 1.0], False),
        ("G", [0.0], [0.0], True),
        ("G", [1e-9], [0.0], False),
        ("S", [10.0], [10.0009], True),
        ("S", [10.0], [10.002], False),
        ("E", [], [], True),
    ],
)
def test_a_tolerance_class_takes_what_it_says(tolerance: str, ours: list, recorded: list, ok: bool) -> None:
    doubles = [torch.tensor(values, dtype=torch.float64) for values in (ours, recorded)]
    found = compare(*doubles, TOLERANCES[tolerance])
    assert found.ok is ok


def test_a_ledger_without_any_line_is_no_success() -> None:
    ledger = Ledger("empty")
    ledger.compare_file("x", {"in.a": torch.ones(1)}, {}, Table(compared={}, inputs=("in.a",)))
    assert not ledger.ok
