"""Outputs: never over an input, whole or not there, and a set of files of one answer whenever the process is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Result
from PIL import Image

from annotate.miniature import write
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.cli import outputs
from llava_grounding.cli.common import ANSWER_FILES
from llava_grounding.cli.main import run
from llava_grounding.cli.outputs import refuse_overwriting, write_files
from llava_grounding.errors import UsageError

Call = Callable[..., Result]
OLD = {name: b"old " + name.encode() for name in ANSWER_FILES}
NEW = {name: b"new " + name.encode() for name in ANSWER_FILES}


def holds(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture called as a drawing would be, in a folder of its own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "answer.png"
    Image.new("RGB", (64, 48), "orange").save(path)
    return path


def assert_refused(result: Result, *words: str) -> None:
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Error: the output ")
    assert result.err.count("\n") == 1
    for word in ("would overwrite", *words):
        assert word in result.err


@pytest.mark.parametrize("command", ["chat", "ground"])
@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/../in", "{}/./"])
def test_an_answer_is_not_written_over_the_picture(
    call: Call, engine: FakeEngine, picture: Path, command: str, spelling: str
) -> None:
    before = picture.read_bytes()
    assert_refused(call(command, picture, "What?", "--out", spelling.format(picture.parent)), "the image", "answer.png")
    assert engine.loaded_with is None
    assert picture.read_bytes() == before


def test_links_to_an_input_are_the_input(call: Call, engine: FakeEngine, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(picture)
    (tmp_path / "folder").symlink_to(picture.parent)
    (tmp_path / "hard").mkdir()
    (tmp_path / "hard" / "answer.png").hardlink_to(picture)
    assert_refused(call("chat", tmp_path / "link.png", "What?", "--out", picture.parent))
    assert_refused(call("chat", picture, "What?", "--out", tmp_path / "folder"))
    assert_refused(call("chat", picture, "What?", "--out", tmp_path / "hard"))


def test_a_mask_is_an_input_too(call: Call, engine: FakeEngine, photo: Path, picture: Path) -> None:
    given = ["chat", photo, "<region>?", "--mask", picture, "--out", picture.parent]
    assert_refused(call(*given), "the mask")


def test_a_dialogue_writes_over_no_input(
    call: Call, engine: FakeEngine, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "out" / "002"
    second.mkdir(parents=True)
    Image.new("L", (64, 48), 255).save(second / "answer.png")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"One?\n/mask {second / 'answer.png'}\n<region>?\n"))
    result = call("chat", photo, "--out", tmp_path / "out")
    assert result.code == 2
    assert "would overwrite the mask" in result.err
    assert [question for question, *_ in engine.asked] == ["One?"]
    assert [path.name for path in second.iterdir()] == ["answer.png"]
    second.rename(tmp_path / "001")
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\n"))
    engine.loaded_with = None
    assert_refused(call("chat", tmp_path / "001" / "answer.png", "--out", tmp_path))
    assert engine.loaded_with is None


def test_render_writes_over_neither_answer_nor_picture(
    call: Call, engine: FakeEngine, photo: Path, tmp_path: Path
) -> None:
    answer = tmp_path / "answer.html"
    answer.write_text(json.dumps(engine.ask(Image.open(photo), "What?").to_dict()))
    before = photo.read_bytes()
    (tmp_path / "again.png").hardlink_to(photo)
    assert_refused(call("render", answer, photo, photo), "the image")
    assert_refused(call("render", answer, photo, tmp_path / "again.png"), "the image")
    assert_refused(call("render", answer, photo, answer), "the answer")
    assert photo.read_bytes() == before


def test_upper_and_lower_case_count_where_the_file_system_says_so(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: real(Path(str(path).lower()), **how))
    with pytest.raises(UsageError, match="would overwrite the image"):
        refuse_overwriting([("image", Path(str(picture).lower()))], [picture.with_name("ANSWER.PNG")])


def test_a_folder_that_holds_an_input_is_no_output(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would overwrite the model"):
        refuse_overwriting([("model", picture)], [picture.parent])
    refuse_overwriting([("model", picture), ("image", tmp_path / "nothing")], [tmp_path / "nothing", tmp_path / "new"])


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_output_is_not_the_working_folder(
    call: Call, engine: FakeEngine, photo: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = call("chat", photo, "What?", "--out", text)
    assert (result.code, result.err) == (2, "Error: a path must not be empty; `.` is the working folder\n")
    assert list((tmp_path / "here").iterdir()) == []
    assert call("chat", photo, "What?", "--out", ".").code == 0
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted(ANSWER_FILES)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside other files"])
@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "without exchange"])
def test_a_set_takes_the_place_of_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(outputs, "_swap", lambda *_: False)
    folder = tmp_path / "folder"
    write_files(folder, OLD)
    assert holds(folder) == OLD
    extra = {"notes.txt": b"mine"} if beside else {}
    for name, content in extra.items():
        (folder / name).write_bytes(content)
    folder.chmod(0o750)
    write_files(folder, NEW)
    assert holds(folder) == NEW | extra
    assert folder.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert {path.name for path in folder.iterdir()} == {*NEW, *extra}


@pytest.mark.parametrize("name", ANSWER_FILES)
def test_a_folder_called_as_an_output_keeps_the_older_set(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, OLD)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").touch()
    with pytest.raises(IsADirectoryError) as caught:
        write_files(tmp_path, NEW)
    assert caught.value.filename == str(tmp_path / name)
    assert all((tmp_path / one).read_bytes() == OLD[one] for one in OLD if one != name)
    assert (tmp_path / name / "notes.txt").exists()


def test_a_folder_called_as_an_output_is_told_before_any_work(
    call: Call, engine: FakeEngine, photo: Path, tmp_path: Path
) -> None:
    for name in ANSWER_FILES:
        (tmp_path / "out" / name / "in").mkdir(parents=True)
        result = call("ground", photo, "a dog", "--out", tmp_path / "out")
        assert result.code == 2
        assert "would be written, but is a folder; give another --out" in result.err
        assert engine.loaded_with is None
        (tmp_path / "out" / name / "in").rmdir()
        (tmp_path / "out" / name).rmdir()


def test_the_working_folder_stays_the_one_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    write_files(Path(), OLD)
    write_files(Path(), NEW)
    write_files(tmp_path, OLD)
    assert tmp_path.stat().st_ino == before
    assert holds(tmp_path) == OLD


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_files(tmp_path / "link", OLD)
    assert (tmp_path / "link").is_symlink()
    assert holds(tmp_path / "real") == OLD


def write_for_ever(folder: Path) -> None:
    while True:
        write_files(folder, NEW)
        write_files(folder, OLD)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside other files"])
def test_a_killed_process_leaves_no_mix_and_its_leavings_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # more writing in less time
    folder = tmp_path / "folder"
    write_files(folder, OLD)
    if beside:
        (folder / "notes.txt").touch()
    contents: set[bytes] = set()
    kills = 0
    while kills < 25 or len(contents) < 6:  # on a busy machine a process may be killed before it has written anything
        kills += 1
        assert kills < 2_000
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(folder)
            finally:
                os._exit(1)
        time.sleep(0.002 + kills % 11 / 1000)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        there = {name: content for name, content in holds(folder).items() if name in ANSWER_FILES}
        contents |= set(there.values())
        kinds = {content[:3] for content in there.values()}
        assert len(kinds) <= 1, there
        if not beside and hasattr(os, "sched_getaffinity"):  # Linux, whose file systems exchange folders in one step
            assert there.keys() == OLD.keys()
        if "answer.json" in there:
            assert there.keys() == OLD.keys()
    write_files(folder, OLD)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert {path.name for path in folder.iterdir()} - {"notes.txt"} == OLD.keys()


def test_a_device_takes_what_is_written(tmp_path: Path) -> None:
    write_files(Path("/dev"), {"null": b"x"})
    with pytest.raises(OSError, match="No space left on device"):
        write_files(Path("/dev"), {"full": b"x"})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):  # nobody reads it, and nobody waits
        write_files(tmp_path, {"pipe": b"x"})


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished folders of annotations, halves of one run."""
    folder = tmp_path_factory.mktemp("annotated")
    paths = write(folder / "in", pictures=True)
    given = ["--instances", str(paths["instances"]), "--captions", str(paths["captions"])]
    for number in "12":
        assert run(["annotate", "run", *given, "--shard", f"{number}/2", "--out", str(folder / number)]) == 0
    return folder / "1", folder / "2"


@pytest.mark.parametrize("name", ["records.jsonl", "instances.json", "manifest.json"])
def test_what_is_made_of_annotations_replaces_none_of_their_files(
    call: Call, annotated: tuple[Path, Path], name: str
) -> None:
    first, second = annotated
    kept, images = (first / name).read_bytes(), first.parent / "in"
    assert_refused(call("annotate", "merge", first, second, "--out", first), "the shard")
    for command in (
        ("stats", first, "--plot", first / name),
        ("show", first, 1, "--images", images, "--out", first / name),
        ("review", first, "--images", images, "--page", first / name),
    ):
        assert_refused(call("annotate", *command), "the data", name)
    assert (first / name).read_bytes() == kept


def test_a_drawing_of_a_record_does_not_replace_its_picture(call: Call, annotated: tuple[Path, Path]) -> None:
    images = annotated[0].parent / "in"
    picture = next(iter(sorted(images.glob("*.jpg"))))
    kept = picture.read_bytes()
    assert_refused(call("annotate", "show", annotated[0], 1, "--images", images, "--out", picture), "the picture")
    assert picture.read_bytes() == kept


def test_a_comparison_replaces_no_results(call: Call, tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text("{}\n")
    given = (tmp_path, tmp_path, "--out", tmp_path / "scores.jsonl")
    assert_refused(call("benchmark", "compare", *given), "the results", "scores.jsonl")


def classified(call: Call, folder: Path) -> Path:
    """A data set of two pictures, and the set of the classification task that is built of it."""
    paths = write(folder / "in", pictures=True)
    given = ("--instances", paths["instances"], "--images", folder / "in", "--out", folder / "set.jsonl")
    assert call("benchmark", "classification", "build", *given).code == 0
    return folder / "set.jsonl"


def test_a_set_replaces_no_file_of_a_folder_that_it_is_built_from(call: Call, tmp_path: Path) -> None:
    before = classified(call, tmp_path).read_bytes()
    images = tmp_path / "in"
    picture = min(images.rglob("*.jpg"))
    given = ("benchmark", "classification", "build", "--instances", images / "instances.json", "--images", images)
    kept = picture.read_bytes()
    for name in ("--out", picture), ("--out", images / "captions.json"):
        assert_refused(call(*given, *name), "a file of the input", name[1].name)
    assert picture.read_bytes() == kept
    for _ in range(2):  # an earlier set may be
        assert call(*given, "--out", images / "set.jsonl").code == 0
    assert (images / "set.jsonl").read_bytes() == before


def test_scores_replace_neither_judgements_nor_predictions(call: Call, tmp_path: Path) -> None:
    samples, out = classified(call, tmp_path), tmp_path / "out"
    out.mkdir()
    first = json.loads(samples.read_text().splitlines()[1])["id"]
    for name in ("scored.json", "predictions.jsonl"):
        (out / name).write_text(json.dumps({"id": first, "text": "dog"}))
    (out / "judgements.jsonl").write_text('{"sample": "a", "verdict": {"right": []}}')
    before = holds(out)
    given = ("benchmark", "classification", "score", "--set", samples, "--out", out)
    assert_refused(call(*given, "--predictions", out), "the predictions", "scored.json")
    recorded = ("--predictions", out / "predictions.jsonl", "--judgements", out / "judgements.jsonl")
    assert_refused(call(*given, *recorded), "the judgements", "judgements.jsonl")
    assert holds(out) == before


@pytest.mark.parametrize("place", ["folder", "list"])
@pytest.mark.parametrize("option", ["--out", "--progress"])
def test_labels_replace_no_photo(call: Call, tmp_path: Path, place: str, option: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6), "orange").save(photos / name)
    (tmp_path / "list.txt").write_text("photos/a.png\nphotos/b.png\n")
    (tmp_path / "link.json").symlink_to(photos / "b.png")
    before = holds(photos)
    given = ("label", photos if place == "folder" else tmp_path / "list.txt", "--class", "dog")
    for name in ("photos/b.png", "link.json"):
        rest = ("--out", tmp_path / "labels.json") if option == "--progress" else ()
        assert_refused(call(*given, *rest, option, tmp_path / name), "the photo", name)
    assert holds(photos) == before


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("run", "predictions.jsonl"),
        ("run", "config.json"),
        ("score", "scored.json"),
        ("score", "scores.jsonl"),
        ("score", "judgements.jsonl"),
    ],
)
def test_a_step_of_a_benchmark_does_not_replace_its_set(call: Call, tmp_path: Path, step: str, name: str) -> None:
    samples = tmp_path / name
    SampleSet("pope", "a", (BenchmarkSample("1", "1.jpg", (9, 9), question="Is it red?", answer="no"),)).write(samples)
    kept = samples.read_bytes()
    (tmp_path / "others.jsonl").write_text('{"id": "1", "text": "no"}\n')
    given = {"run": ("--images", tmp_path), "score": ("--predictions", tmp_path / "others.jsonl")}[step]
    refused = call("benchmark", "pope", step, "--set", samples, "--out", tmp_path, *given)
    assert_refused(refused, "the set", name)
    assert samples.read_bytes() == kept
