"""`chat` answers, in JSON or in words, binds prompts in the order given, and refuses bad input in one sentence."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fake_engine import SIZE, AnswerDone, FakeEngine, FakeTalk, Result, TextDelta
from PIL import Image

from llava_grounding.errors import CheckpointError
from llava_grounding.image_files import DEFAULT_LIMITS, ImageLimits
from llava_grounding.structures import GroundedAnswer, VisualPrompt

Call = Callable[..., Result]


def assert_one_sentence(result: Result) -> None:
    assert result.out == ""
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert len(result.err) < 400


def test_json_is_all_there_is_on_stdout(call: Call, engine: FakeEngine, photo: Path) -> None:
    engine.prints = "a library that talks"
    result = call("chat", photo, "What is there?", "--json")
    assert (result.code, result.out.count("\n")) == (0, 1)
    answer = GroundedAnswer.from_dict(json.loads(result.out))
    assert answer.text == "A disc, no birds."
    assert answer.image_size_wh == SIZE
    assert "a library that talks" in result.err


def test_the_answer_is_said_with_its_regions(call: Call, engine: FakeEngine, photo: Path) -> None:
    result = call("chat", photo, "What is there?")
    assert result.code == 0
    assert result.out.splitlines() == [
        "A disc, no birds.",
        "   1  A disc: box 0,0,32,24  score 0.75",
        "   2  no birds: not found (best score 0.10)",
    ]
    assert result.err == ""


def test_settings_reach_the_engine(call: Call, engine: FakeEngine, photo: Path) -> None:
    options = [
        "--no-grounding",
        "--threshold",
        0.4,
        "--max-new-tokens",
        5,
        "--temperature",
        0.5,
        "--seed",
        3,
        "--model",
        "m",
        "--device",
        "d",
    ]
    assert call("chat", photo, "Why?", "--json", *options).code == 0
    assert engine.loaded_with == ("m", "d")
    assert engine.asked == [
        ("Why?", (), {"grounded": False, "score_threshold": 0.4, "max_new_tokens": 5, "temperature": 0.5, "seed": 3}),
    ]
    call("chat", photo, "Why?")
    defaults = {"max_new_tokens": 256, "temperature": 0.0, "seed": None}
    assert engine.asked[1][2] == {"grounded": True, "score_threshold": None, **defaults}


def test_an_answer_of_which_nothing_was_surely_found_says_so(call: Call, engine: FakeEngine, photo: Path) -> None:
    words = "Doubtful: none of this was surely found in the picture; the model may not know such images.\n"
    assert call("chat", photo, "What is there?").err == ""
    doubtful = call("chat", photo, "What is there?", "--threshold", 0.9)
    assert (doubtful.code, doubtful.err) == (0, words)
    assert doubtful.out.splitlines()[1] == "   1  A disc: not found (best score 0.10)"


def test_prompts_bind_in_the_order_given_across_kinds(
    call: Call, engine: FakeEngine, photo: Path, tmp_path: Path
) -> None:
    drawn = np.zeros(SIZE[::-1], dtype=np.uint8)
    drawn[5:9, 5:9] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    question = "<region> <region> <region> <region> <region>"
    given = ["--box", "1,2,30.5,40", "--click=10,20", "--mask", tmp_path / "mask.png", "--scribble", "1,1 5,5 9,2"]
    result = call("chat", *given, photo, question, "--click", "3,4", "--json")
    assert result.code == 0, result.err
    assert engine.asked[0][1] == (
        VisualPrompt.box(1, 2, 30.5, 40),
        VisualPrompt.click(10, 20),
        VisualPrompt.mask_of(drawn),
        VisualPrompt.scribble([(1, 1), (5, 5), (9, 2)]),
        VisualPrompt.click(3, 4),
    )


def test_out_gets_json_drawing_and_page(call: Call, engine: FakeEngine, photo: Path, out: Path) -> None:
    result = call("chat", photo, "What is <region>?", "--click", "5,5", "--out", out)
    assert result.code == 0
    assert sorted(path.name for path in out.iterdir()) == ["answer.html", "answer.json", "answer.png"]
    assert GroundedAnswer.from_dict(json.loads((out / "answer.json").read_text())).text == "A disc, no birds."
    with Image.open(out / "answer.png") as drawing:
        assert drawing.width >= 640
    assert ">R1</span>" in (out / "answer.html").read_text()
    assert result.err == f"Written to {out}: answer.json, answer.png, answer.html\n"
    assert call("chat", photo, "Again?", "--out", out, "--json").code == 0  # over what is there


@cache
def bad_images() -> dict[str, tuple[bytes | None, str]]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    def png_of(width: int, height: int) -> bytes:
        body = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        chunk = b"IHDR" + body
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))

    other = Image.new("RGB", (64, 64))
    return {
        "missing": (None, "does not exist; check the path"),
        "empty": (b"", "is empty"),
        "text": (b"hello", "is not an image; expected JPEG, PNG or WebP"),
        "truncated": (saved(noise, "JPEG")[:900], "is damaged or truncated"),
        "huge": (
            png_of(30_000, 30_000),
            "has 900 megapixels (30000 x 30000), more than the 65 allowed",
        ),
        "heavy": (b"\xff\xd8" + bytes(26_000_000), "has 26.0 MB, more than the 25 MB allowed"),
        "zero-sized": (png_of(0, 7), "has no pixels (0 x 7)"),
        "animated PNG": (saved(noise, "PNG", save_all=True, append_images=[other]), "is animated (2 frames)"),
        "animated WebP": (saved(noise, "WEBP", save_all=True, append_images=[other]), "is animated (2 frames)"),
        "animated GIF": (saved(noise, "GIF", save_all=True, append_images=[other]), "is a GIF"),
    }


@pytest.mark.parametrize("kind", bad_images())
@pytest.mark.parametrize("command", ["chat", "ground"])
def test_a_bad_image_is_refused_in_one_sentence(
    call: Call, engine: FakeEngine, tmp_path: Path, out: Path, kind: str, command: str
) -> None:
    content, words = bad_images()[kind]
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    result = call(command, tmp_path / "bad.png", "What is this?", "--out", out, "--json")
    assert result.code == 2
    assert_one_sentence(result)
    assert words in result.err
    assert engine.loaded_with is None  # refused before the model is loaded
    assert not out.parent.exists()


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "LA", "RGBA", "I;16"])
def test_an_image_of_any_colour_mode_is_answered(call: Call, engine: FakeEngine, tmp_path: Path, mode: str) -> None:
    image = Image.new("L", SIZE, 99)
    image = Image.fromarray(np.full(SIZE[::-1], 999, np.uint16)) if mode == "I;16" else image.convert(mode)
    path = tmp_path / "image"
    image.save(path, "JPEG" if mode == "CMYK" else "PNG")
    result = call("chat", path, "What is this?", "--json")
    assert result.code == 0
    assert json.loads(result.out)["image_size"] == list(SIZE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["What is <region>?", "--click", "64,10"], "region 1: a click must lie inside the image of 64 x 48 pixels"),
        (["What is <region>?", "--click", "-5,10"], "region 1: a click must lie inside the image"),
        (["What is <region>?", "--box", "100,100,120,120"], "region 1: a box must overlap the image"),
        (["What is <region>?", "--box", "10,10,10,30"], "region 1: a box must have x0 < x1 and y0 < y1"),
        (["What is <region>?", "--box", "30,10,20,30"], "region 1: a box must have x0 < x1"),
        (["What is <region>?", "--scribble", "90,90 99,99"], "region 1: a scribble must lie inside the image"),
        (["What?", "--click", "1,1"], "no <region> for the 1 region prompt given; write it where it is meant"),
        (["What?", "--click", "1,1", "--box", "1,1,2,2"], "no <region> for the 2 region prompts given"),
        (["<region> <region>?", "--click", "1,1"], "got 2 placeholders for 1 prompt"),
        (["<region>?", "--click", "1,1", "--click", "2,2"], "got 1 placeholder for 2 prompts"),
        (["What is <region>?"], "got 1 placeholder for 0 prompts"),
        ([""], "the question must not be empty"),
        (["  \n"], "the question must not be empty"),
        (["<region>?", "--click", "12"], "--click must be X,Y as in `120,80`, in pixels, got `12`"),
        (["<region>?", "--click", "a,b"], "--click must be X,Y"),
        (["<region>?", "--click", "nan,1"], "--click must be X,Y"),
        (["<region>?", "--click", "1e999,1"], "--click must be X,Y"),
        (["<region>?", "--click", ""], "--click must be X,Y"),
        (["<region>?", "--box", "1,2,3"], "--box must be X0,Y0,X1,Y1"),
        (["<region>?", "--scribble", "1,2 3"], '--scribble must be points "x,y x,y ..."'),
        (["<region>?", "--scribble", ""], "--scribble must be points"),
        (["<region>?", "--mask", "no/such/mask.png"], "image `no/such/mask.png` does not exist"),
        (["--json"], "--json needs a QUESTION"),
        (["Why?", "--max-new-tokens", "0"], "'--max-new-tokens'"),
        (["Why?", "--max-new-tokens", "2001"], "'--max-new-tokens'"),
        (["Why?", "--temperature", "-1"], "'--temperature'"),
        (["Why?", "--temperature", "hot"], "'--temperature'"),
        (["Why?", "--seed", "x"], "'--seed'"),
        (["Why?", "--clik", "1,1"], "No such option: --clik"),
        (["Why?", "extra"], "unexpected extra argument"),
        (["Why?", "--click"], "'--click' requires an argument"),
    ],
)
def test_wrong_use_is_refused_in_one_sentence(
    call: Call, engine: FakeEngine, photo: Path, out: Path, arguments: list[str], words: str
) -> None:
    result = call("chat", "--out", out, photo, *arguments)
    assert result.code == 2
    assert_one_sentence(result)
    assert words in result.err
    assert engine.asked == []
    assert not out.parent.exists()


def test_a_mask_must_have_pixels_and_the_size_of_the_image(
    call: Call, engine: FakeEngine, photo: Path, tmp_path: Path
) -> None:
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    Image.new("L", SIZE, 0).save(tmp_path / "empty.png")
    for name, words in [("small", "a mask must have the size of the image"), ("empty", "at least one pixel set")]:
        result = call("chat", photo, "What is <region>?", "--mask", tmp_path / f"{name}.png")
        assert result.code == 2
        assert_one_sentence(result)
        assert words in result.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CheckpointError("weights are damaged"), 1, "Error: weights are damaged"),
        (RuntimeError("line one\nline two"), 1, "unexpected RuntimeError: line one line two; run again with --debug"),
        (MemoryError(), 1, "there is not enough memory"),
        (OSError(28, "No space left on device", "x.bin"), 1, "No space left on device `x.bin`"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_failure_is_one_sentence_and_leaves_nothing_half_written(
    call: Call,
    engine: FakeEngine,
    photo: Path,
    out: Path,
    error: BaseException,
    code: int,
    words: str,
    json_too: list[str],
) -> None:
    engine.error = error
    result = call("chat", photo, "Why?", "--out", out, *json_too)
    assert result.code == code
    assert words in result.err
    assert result.err.count("\n") == 1
    assert not out.parent.exists()


def test_debug_shows_the_traceback(call: Call, engine: FakeEngine, photo: Path) -> None:
    engine.error = RuntimeError("deep inside")
    for arguments in (["--debug", "chat", photo, "Why?"], ["chat", photo, "Why?", "--debug"]):
        result = call(*arguments)
        assert result.code == 1
        assert "Traceback (most recent call last)" in result.err
        assert "unexpected RuntimeError: deep inside" in result.err


def test_an_unknown_model_and_a_damaged_one_are_refused(call: Call, photo: Path, tmp_path: Path, out: Path) -> None:
    result = call("chat", photo, "Why?", "--model", "nanoo", "--out", out)
    assert result.code == 2
    assert_one_sentence(result)
    assert "unknown model `nanoo`; did you mean `nano`?" in result.err
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    result = call("chat", photo, "Why?", "--model", broken, "--out", out)
    assert result.code == 1
    assert_one_sentence(result)
    assert "damaged" in result.err
    result = call("chat", photo, "Why?", "--device", "toaster")
    assert result.code == 2
    assert_one_sentence(result)
    assert not out.parent.exists()


def test_an_output_folder_that_cannot_be_one_is_refused_at_once(call: Call, engine: FakeEngine, photo: Path) -> None:
    for folder in (photo, photo / "inside"):
        result = call("chat", photo, "Why?", "--out", folder)
        assert result.code == 2
        assert_one_sentence(result)
        assert "--out must be a folder" in result.err
    assert engine.loaded_with is None


def dialogue(call: Call, monkeypatch: pytest.MonkeyPatch, lines: list[str], *arguments: object) -> Result:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return call("chat", *arguments)


def test_without_a_question_lines_are_asked_until_the_end(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dialogue(call, monkeypatch, ["One?", "", "  Two?  ", "/quit", "Three?"], photo)
    assert result.code == 0
    assert [question for question, *_ in engine.asked] == ["One?", "Two?"]
    assert result.out.count("A disc, no birds.") == 2


def test_a_dialogue_points_and_forgets(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "/box 1,2,3,4",
        "/scribble 1,1 2,2",
        "<region> or <region> or <region>?",
        "Why?",
        "/click 1,1",
        "/clear",
        "So?",
    ]
    result = dialogue(call, monkeypatch, lines, photo, "--click", "9,9")
    assert result.code == 0, result.err
    assert [len(prompts) for _, prompts, _ in engine.asked] == [3, 0, 0]
    assert engine.asked[0][1][:2] == (VisualPrompt.click(9, 9), VisualPrompt.box(1, 2, 3, 4))


def test_a_dialogue_survives_mistakes_and_reports_them(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["/clikc 1,1", "/click 1", "/click 999,1", "/click 1,1", "no place for it", "<region>?", "/help"]
    result = dialogue(call, monkeypatch, lines, photo)
    assert result.code == 2  # somebody's script should know
    errors = [line for line in result.err.splitlines() if line.startswith("Error")]
    assert len(errors) == 4
    assert "unknown command `/clikc`" in errors[0]
    assert "/click must be X,Y" in errors[1]
    assert "must lie inside" in errors[2]
    assert "no <region> for the 1 region prompt" in errors[3]
    assert [question for question, *_ in engine.asked] == ["<region>?"]
    assert "/scribble" in result.err


def test_each_answer_of_a_dialogue_has_its_own_folder(
    call: Call, engine: FakeEngine, photo: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dialogue(call, monkeypatch, ["One?", "Two?"], photo, "--out", out).code == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.json")) == ["001/answer.json", "002/answer.json"]


def test_what_a_model_says_cannot_steer_the_terminal(
    call: Call, engine: FakeEngine, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = GroundedAnswer("\x1b[2J\x07boo", (), SIZE, "", "fake", 0, 0)
    events = [TextDelta(hostile.text), AnswerDone(hostile)]
    monkeypatch.setattr(FakeTalk, "stream", lambda *_, **__: iter(events))
    assert call("chat", photo, "Why?").out == "\ufffd[2J\ufffdboo\n"


@pytest.mark.parametrize("command", [["chat", "What is this?"], ["ground", "a disc"]])
def test_how_large_an_image_may_be_can_be_said(call: Call, engine: FakeEngine, photo: Path, command: list[str]) -> None:
    name, words = command
    result = call(name, photo, words, "--max-megapixels", "0.001")
    assert (result.code, result.out) == (2, "")
    assert "has 0.003072 megapixels (64 x 48), more than the 0.001 allowed; make it smaller" in result.err
    assert call(name, photo, words, "--max-megapixels", "200").code == 0
    assert engine.limits == ImageLimits.of_megapixels(200)
    assert call(name, photo, words).code == 0
    assert engine.limits == DEFAULT_LIMITS
    assert "megapixels must be more than 0" in call(name, photo, words, "--max-megapixels", "0").err
