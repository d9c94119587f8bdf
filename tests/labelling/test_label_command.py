"""`label`: photos from anywhere, in every format, whatever is wrong with some and however often it is killed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from made_up_model import CLASSES, SIZE, MadeUpModel, photo_bytes, true_mask
from PIL import Image

from llava_grounding.cli.label import _hashes as hashes_of
from llava_grounding.cli.label import label as label_command
from llava_grounding.errors import UsageError
from llava_grounding.labelling import exporters
from llava_grounding.labelling.exporters import LabelledSet, find_exporter, register_exporter
from llava_grounding.labelling.labeller import category_of
from llava_grounding.labelling.progress import open_progress
from llava_grounding.masks import decode_rle

Label = Callable[..., tuple[int, str, str]]
GOOD = ["a.png", "b/1.webp", "b/2.PNG", "b/c/ünï & <b>.png", "z.png"]
NUMBERS = {name: number for number, name in enumerate(GOOD)}
FORMATS = ("coco", "labelstudio", "yolo", "voc", "jsonl")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(place: Path) -> dict[str, bytes]:
    """All files at a place, by name."""
    if place.is_file():
        return {"": place.read_bytes()}
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def even_odd(walk: np.ndarray) -> np.ndarray:
    """The pixels whose centre a ray leaves through an odd number of edges, one edge after the other."""
    inside = np.zeros(SIZE[::-1], dtype=bool)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    for (x0, y0), (x1, y1) in zip(walk, np.roll(walk, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def unpacked_brush(code: list[int]) -> np.ndarray:
    """Label Studio's run-length code read bit by bit, as its format is documented."""
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, width = read(32), read(5) + 1
    counters = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        count = read(counters[read(2)]) + 1
        values += [read(width)] * count if is_run else [read(width) for _ in range(count)]
    assert len(values) == total
    pixels = np.array(values).reshape(SIZE[1], SIZE[0], 4)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0] == 255


def test_every_format_is_read_back_by_other_means_and_broken_photos_are_named(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    outs = {name: tmp_path / "out" / name for name in FORMATS}
    options = ["--class", CLASSES[0], "--class", CLASSES[1], "--batch-size", 3, "--progress", tmp_path / "progress"]
    for name, out in outs.items():
        code, said, told = label(photos, "--out", out, "--format", name, *options)
        assert code == 0, told
        assert said == f"5 photos, 2 skipped, 5 labels in 2 categories, written to {out}\n"
        assert "skipped b/broken.jpg: " in told
        assert "skipped cut.png: it is damaged or truncated" in told
    assert sum(model.batches) == len(GOOD)  # the later formats cost nothing
    truth = {name: true_mask(number) for name, number in NUMBERS.items()}

    lines = rows(outs["jsonl"])
    assert [line["image"] for line in lines] == GOOD
    assert [(line["image_size"], [one["category"] for one in line["labels"]]) for line in lines] == [
        (list(SIZE), ["dog"])
    ] * 5
    for line in lines:
        assert (decode_rle(line["labels"][0]["mask"]) == truth[line["image"]]).all()
    scores = {line["image"]: line["labels"][0]["score"] for line in lines}

    coco_tools = pytest.importorskip("pycocotools.coco")
    coco = coco_tools.COCO(str(outs["coco"]))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        (annotation,) = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert (coco.annToMask(annotation) == truth[image["file_name"]]).all()
        assert annotation["bbox"] == coco_tools.maskUtils.toBbox(annotation["segmentation"]).tolist()
        assert (annotation["area"], annotation["score"]) == (
            truth[image["file_name"]].sum(),
            scores[image["file_name"]],
        )

    tasks = json.loads(outs["labelstudio"].read_text(encoding="utf-8"))
    config = ElementTree.parse(outs["labelstudio"].with_name("labelstudio.config.xml")).getroot()
    tags = {tag.get("name"): tag for tag in config}
    for task, name in zip(tasks, GOOD, strict=True):
        assert task["data"]["image"].isascii()
        (predicted,) = task["predictions"]
        (result,) = predicted["result"]
        brush = tags[result["from_name"]]
        assert (brush.tag, brush.get("toName"), result["type"]) == ("BrushLabels", result["to_name"], "brushlabels")
        assert tags[result["to_name"]].get("value") == "$image"
        assert result["value"]["brushlabels"] == ["dog"]
        assert [one.get("value") for one in brush] == list(CLASSES)
        assert [result["original_width"], result["original_height"]] == list(SIZE)
        assert (unpacked_brush(result["value"]["rle"]) == truth[name]).all()

    data = yaml.safe_load((outs["yolo"] / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(CLASSES))
    for name in GOOD:  # as YOLO finds labels: the path of the photo with `labels` for `images` and `.txt` behind
        (line,) = (outs["yolo"] / "labels" / name).with_suffix(".txt").read_text().splitlines()
        number, *walk = line.split()
        assert number == "0"
        assert (even_odd(np.array(walk, dtype=float).reshape(-1, 2) * SIZE) == truth[name]).all()

    for name in GOOD:
        stem = name.rpartition(".")[0]
        root = ElementTree.parse(outs["voc"] / "Annotations" / f"{stem}.xml").getroot()
        assert f"{root.findtext('folder') or ''}/{root.findtext('filename')}".strip("/") == name
        assert [int(root.findtext(f"size/{tag}", "")) for tag in ("width", "height", "depth")] == [*SIZE, 3]
        (found,) = root.findall("object")
        y, x = np.nonzero(truth[name])
        corners = [int(found.findtext(f"bndbox/{tag}", "")) for tag in ("xmin", "ymin", "xmax", "ymax")]
        assert corners == [x.min() + 1, y.min() + 1, x.max() + 1, y.max() + 1]
        for kind in ("SegmentationObject", "SegmentationClass"):
            assert (np.asarray(Image.open(outs["voc"] / kind / f"{stem}.png")) == truth[name]).all()
    stems = (outs["voc"] / "ImageSets" / "Main" / "default.txt").read_text(encoding="utf-8").splitlines()
    assert stems == [name.rpartition(".")[0] for name in GOOD]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".part")]


def test_boxes_alone_are_boxes_in_every_format(label: Label, model: MadeUpModel, photos: Path, tmp_path: Path) -> None:
    for name in ("yolo", "labelstudio", "voc", "coco"):
        code, _, told = label(
            photos / "a.png", "--out", tmp_path / name, "--format", name, "--class", "dog", "--boxes-only"
        )
        assert code == 0, told
    y, x = np.nonzero(true_mask(0))
    x0, y0, x1, y1 = x.min(), y.min(), x.max() + 1, y.max() + 1
    line = [float(one) for one in (tmp_path / "yolo" / "labels" / "a.txt").read_text().split()]
    expected = [0, (x0 + x1) / 2 / SIZE[0], (y0 + y1) / 2 / SIZE[1], (x1 - x0) / SIZE[0], (y1 - y0) / SIZE[1]]
    assert line == pytest.approx(expected, abs=1e-6)
    (task,) = json.loads((tmp_path / "labelstudio").read_text())
    (result,) = task["predictions"][0]["result"]
    assert (result["type"], result["value"]["rectanglelabels"]) == ("rectanglelabels", ["dog"])
    assert result["value"]["x"] == pytest.approx(100 * x0 / SIZE[0], abs=1e-4)
    assert result["value"]["height"] == pytest.approx(100 * (y1 - y0) / SIZE[1], abs=1e-4)
    (annotation,) = json.loads((tmp_path / "coco").read_text())["annotations"]
    assert (annotation["segmentation"], annotation["bbox"]) == ([], [x0, y0, x1 - x0, y1 - y0])
    assert not (tmp_path / "voc" / "SegmentationObject").exists()


def test_without_classes_what_the_model_sees_is_labelled_once(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    code, _, told = label(photos, "--out", tmp_path / "seen.json")
    assert code == 0, told
    coco = json.loads((tmp_path / "seen.json").read_text())
    assert [one["name"] for one in coco["categories"]] == ["dog", "quux"]  # "two dogs" and "the dog" are the same ones
    assert len(coco["annotations"]) == 2 * len(GOOD)
    assert [category_of(one) for one in ("Two big dogs", "A puppy", "many quuxes", "The blue quux", "7")] == [
        "dog",
        "dog",
        "quuxes",
        "blue quux",
        "7",
    ]


def child(command: Callable[[], None], kill_at: int) -> int:
    """Runs the command in a forked process that is killed when it wants to sync for the n-th time; its status."""
    number = os.fork()
    if number:
        return os.waitpid(number, 0)[1]
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    count, fsync = 0, os.fsync

    def counted(handle: int) -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = counted
    code = 1
    try:
        command()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_killed_at_any_moment_the_same_command_gives_the_same_files(
    model: MadeUpModel, photos: Path, tmp_path: Path, name: str
) -> None:
    def command(out: Path) -> None:
        label_command(photos, out, name, class_=["dog"], batch_size=2)

    command(tmp_path / "straight")
    expected = content(tmp_path / "straight")
    progress = (tmp_path / "straight.progress.jsonl").read_bytes()
    for kill_at in range(1, 100, 1 if name == "coco" else 5):
        out = tmp_path / f"killed_{kill_at}"
        status = child(lambda out=out: command(out), kill_at)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        assert not out.exists() or content(out) == expected  # nothing half
        command(out)
        assert content(out) == expected
        assert not list(tmp_path.glob(".killed*"))
    assert kill_at > 4
    for cut in (len(progress) - 1, len(progress) // 2, progress.index(b"\n") + 3, 5, 0):  # half a line
        out = tmp_path / f"cut_{cut}"
        out.with_name(f"{out.name}.progress.jsonl").write_bytes(progress[:cut])
        command(out)
        assert content(out) == expected


def test_what_is_labelled_is_not_labelled_again_unless_the_photo_is_another(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    options = [photos, "--out", tmp_path / "a.jsonl", "--format", "jsonl", "--class", "dog"]
    assert label(*options)[0] == 0
    model.batches.clear()
    code, _, told = label(*options)
    assert (code, model.batches) == (0, [])
    assert "7 of 7 photos are in " in told
    (photos / "cut.png").write_bytes(photo_bytes(5))
    (photos / "new.png").write_bytes(photo_bytes(6))
    assert label(*options)[0] == 0
    assert [row["image"] for row in rows(tmp_path / "a.jsonl")] == sorted([*GOOD, "cut.png", "new.png"])
    code, _, told = label(*options, "--threshold", "0.4")
    assert code == 2
    assert "has photos that were labelled otherwise (threshold None, now 0.4); remove it to begin anew" in told
    progress = tmp_path / "a.jsonl.progress.jsonl"
    progress.write_bytes(progress.read_bytes().replace(b'"labels"', b'"babels"', 1))
    code, _, told = label(*options)
    assert code == 1
    assert told.endswith("Error: a labelled photo must have `labels`, it is missing\n")
    progress.write_bytes(b"[" * 100_000 + b"\n")
    code, _, told = label(*options)
    assert code == 1
    assert f"line 1 of {progress} must be a labelled photo in JSON" in told


def bomb(width: int, height: int) -> bytes:
    """The beginning of a PNG that says it is this large."""
    data = bytearray(photo_bytes(0))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_archives_and_lists_give_what_the_folder_gives_and_let_nothing_out(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    (photos / "bomb.png").write_bytes(bomb(60_000, 60_000))
    options = ["--format", "jsonl", "--class", "dog", "--batch-size", 1]
    assert label(photos, "--out", tmp_path / "folder.jsonl", *options)[0] == 0
    expected = (tmp_path / "folder.jsonl").read_bytes()
    with tarfile.open(tmp_path / "photos.tar", "w") as tar, zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for path in sorted(photos.rglob("*")):
            tar.add(path, path.relative_to(photos).as_posix(), recursive=False)
            packed.write(path, path.relative_to(photos).as_posix(), zipfile.ZIP_DEFLATED)
        for name in ("../out.png", "/etc/out.png", "b/../../out.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(photo_bytes(0))
            tar.addfile(entry, io.BytesIO(photo_bytes(0)))
            packed.writestr(name, photo_bytes(0))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(photos / "a.png")
        tar.addfile(link)
        with packed.open(zipfile.ZipInfo("zeros.png"), "w", force_zip64=True) as zeros:
            zeros._compressor = zlib.compressobj(9, zlib.DEFLATED, -15)  # 30 MB in 30 kB
            zeros._zinfo.compress_type = zipfile.ZIP_DEFLATED
            for _ in range(30):
                zeros.write(bytes(2**20))
    names = [
        path.relative_to(photos).as_posix()
        for path in sorted(photos.rglob("*"))
        if path.suffix in (".png", ".PNG", ".webp", ".jpg")
    ]
    (photos / "list.txt").write_text(
        "\ufeff" + "\n".join(["", *sorted(names), "missing.png", "a.png"]), encoding="utf-8"
    )
    (photos / ".hidden.png").unlink()
    for place in (tmp_path / "photos.tar", tmp_path / "photos.zip", photos / "list.txt"):
        out = tmp_path / f"{place.name}.jsonl"
        code, _, told = label(place, "--out", out, *options)
        assert code == 0, told
        got = [row for row in rows(out) if row["image"] != ".hidden.png"]
        assert [json.dumps(row) for row in got] == [json.dumps(json.loads(line)) for line in expected.splitlines()]
        assert "skipped bomb.png: it has 3600 megapixels" in told
        assert "out.png" not in told + out.read_text(encoding="utf-8")
        assert ("skipped zeros.png: " in told) == (place.suffix == ".zip")
        assert ("skipped missing.png: cannot read " in told) == (place.suffix == ".txt")
    assert sorted(path.name for path in tmp_path.parent.glob("*out.png")) == []


def test_a_photo_that_the_model_fails_on_costs_that_photo_and_a_model_that_fails_ends_the_run(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    (photos / "b" / "poison.png").write_bytes(photo_bytes(3, (1, 1, 1)))
    options = ["--class", "dog", "--format", "jsonl"]
    code, said, told = label(photos, "--out", tmp_path / "a.jsonl", *options)
    assert (code, said[:20]) == (0, "5 photos, 3 skipped,")
    assert "skipped b/poison.png: unexpected RuntimeError: this picture is not for me" in told
    poison = tmp_path / "poison"
    poison.mkdir()
    for number in range(12):
        (poison / f"{number:02}.png").write_bytes(photo_bytes(number, (1, 1, 1)))
    code, _, told = label(poison, "--out", tmp_path / "b.jsonl", *options)
    assert (code, (tmp_path / "b.jsonl").exists()) == (1, False)
    assert "the model has failed on 8 photos in a row: unexpected RuntimeError" in told
    for path in sorted(poison.iterdir())[2:]:
        path.unlink()
    code, _, told = label(poison, "--out", tmp_path / "c.jsonl", *options)
    assert (code, (tmp_path / "c.jsonl").exists()) == (1, False)
    assert told.endswith("Error: no photo could be labelled, 2 skipped\n")


def test_what_cannot_be_written_in_the_end_is_refused_before_any_work(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    def refused(*arguments: Any) -> str:
        code, _, told = label(*arguments)
        assert (code, told.count("\n"), model.batches) == (2, 1, [])
        return told

    shutil.copy(photos / "a.png", photos / "a.jpg")
    assert "`a.jpg` and `a.png` would share the labels `a.txt`" in refused(
        photos, "--out", tmp_path / "x", "--format", "yolo"
    )
    (photos / "a.jpg").unlink()
    (tmp_path / "mine" / "labels").mkdir(parents=True)
    assert "has a `labels` that was not written here" in refused(photos, "--out", tmp_path / "mine", "--format", "yolo")
    (tmp_path / "many.txt").write_text("\n".join(f"thing {number}" for number in range(10_001)))
    many = refused(photos, "--out", tmp_path / "x", "--classes", tmp_path / "many.txt")
    assert "classes must be at most 10,000, got 10,001" in many
    (tmp_path / "list.lst").write_text(f"{photos}/a.png\n")
    assert "photos must have paths below one folder" in refused(
        tmp_path / "list.lst", "--out", tmp_path / "x", "--format", "voc"
    )
    assert "would overwrite the photos" in refused(tmp_path / "list.lst", "--out", tmp_path / "list.lst")
    assert "nothing is at" in refused(tmp_path / "nowhere", "--out", tmp_path / "x")
    Image.new("RGB", (9, 9)).save(tmp_path / "mine" / "a.bmp")  # read of data sets alone
    assert "found none" in refused(tmp_path / "mine", "--out", tmp_path / "x")
    assert "must be a file in this format" in refused(photos, "--out", tmp_path / "mine")
    assert "must hold no special tokens" in refused(photos, "--out", tmp_path / "x", "--class", "a <seg>")
    (tmp_path / "none.txt").touch()
    assert "one name a line, got none" in refused(photos, "--out", tmp_path / "x", "--classes", tmp_path / "none.txt")
    assert "--question is asked only where" in refused(
        photos, "--out", tmp_path / "x", "--class", "dog", "--question", "What?"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.lst", "many.txt", "mine", "none.txt", "photos"]


def test_a_folder_that_was_written_here_is_written_again_and_keeps_what_is_not_ours(
    label: Label, model: MadeUpModel, photos: Path, tmp_path: Path
) -> None:
    options = [photos, "--out", tmp_path / "y", "--format", "yolo", "--class", "dog"]
    assert label(*options)[0] == 0
    before = content(tmp_path / "y")
    (tmp_path / "y" / "images").symlink_to(photos)
    (tmp_path / "y" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert label(*options)[0] == 0
    assert {name: data for name, data in content(tmp_path / "y").items() if "images" not in name} == before
    assert (tmp_path / "y" / "images" / "a.png").is_file()


def test_a_format_of_ones_own_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Names:
        is_folder = False
        label_suffix = None

        def entries(self, name: str) -> tuple[str, ...]:
            return (name,)

        def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
            (folder / name).write_text(",".join(photo.name for photo in labelled.photos()))

    monkeypatch.setattr(exporters, "EXPORTERS", dict(exporters.EXPORTERS))
    register_exporter("names", Names())
    exporters.write_export(find_exporter("names"), LabelledSet(lambda: iter(()), (), True, "m"), tmp_path / "n.txt")
    assert (tmp_path / "n.txt").read_text() == ""
    with pytest.raises(exporters.ConfigError, match=r"^format must be one of .*, got `cocoa`; did you mean `coco`\?$"):
        find_exporter("cocoa")


def test_another_model_under_the_same_name_is_not_mixed_in(tmp_path: Path) -> None:
    """A folder such as `runs/mine/best` holds another model after the next training."""
    model = tmp_path / "best"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    before = {"model": str(model), **hashes_of(str(model))}
    with open_progress(tmp_path / "p", before):
        pass
    (model / "model.safetensors").write_bytes(b"two")
    now = {"model": str(model), **hashes_of(str(model))}
    with pytest.raises(UsageError, match=r"labelled otherwise .*weights_hash"), open_progress(tmp_path / "p", now):
        pytest.fail("it was taken for the same")
    with open_progress(tmp_path / "q", {"model": str(model)}):
        pass
    with open_progress(tmp_path / "q", now):
        pass  # begun before hashes were kept
