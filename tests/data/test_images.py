"""Pictures by name from folders, tar shards and zips: found, refused, damaged, and read in other processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from label_files import picture, write_files, write_json, write_tar, write_zip
from llava_grounding.data.images import FileBytes, FolderImages, ImageStore, TarImages, ZipImages, open_images
from llava_grounding.data.plain_files import stays_inside
from llava_grounding.errors import DataError

FILES = {"yard/a.png": picture(1), "yard/b.png": picture(2), "b c/ü.png": picture(3)}


def in_folder(place: Path) -> Path:
    return write_files(place, FILES)


def in_tar(place: Path) -> Path:
    return write_tar(place / "x.tar", FILES)


def in_shards(place: Path) -> Path:
    for number, (name, data) in enumerate(FILES.items()):
        write_tar(place / f"{number:02}.tar", {name: data})
    return place


def in_indexed_shards(place: Path) -> Path:
    store = open_images(in_shards(place))
    assert isinstance(store, TarImages)
    write_json(place / "index_train.json", dict(store.index))
    return place


def in_zip(place: Path) -> Path:
    return write_zip(place / "x.zip", FILES)


def in_stored_zip(place: Path) -> Path:
    return write_zip(place / "x.ZIP", FILES, zipfile.ZIP_STORED)


def in_two_zips(place: Path) -> Path:
    for number, (name, data) in enumerate(FILES.items()):
        write_zip(place / f"{number}.zip", {name: data})
    return place


PLACES = [in_folder, in_tar, in_shards, in_indexed_shards, in_zip, in_stored_zip, in_two_zips]
places = pytest.mark.parametrize("build", PLACES, ids=lambda build: build.__name__)
Build = Callable[[Path], Path]


@places
def test_what_is_there_is_found_by_name(tmp_path: Path, build: Build) -> None:
    store = open_images(build(tmp_path))
    for name, data in FILES.items():
        assert store.has(name)
        assert store.locate(name)() == data


@places
def test_what_is_missing_is_told_when_read_with_its_name_and_place(tmp_path: Path, build: Build) -> None:
    store = open_images(build(tmp_path))
    assert not store.has("yard/z.png")
    with pytest.raises(DataError) as told:
        store.locate("yard/z.png")()
    assert "yard/z.png" in str(told.value)
    assert str(tmp_path) in str(told.value)


@places
@pytest.mark.parametrize("name", ["../secret", "yard/../../secret", "/etc/passwd", "C:\\x", "..\\secret", "", "a\0b"])
def test_names_that_leave_the_place_are_refused(tmp_path: Path, build: Build, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"not yours")
    store = open_images(build(tmp_path / "images"))
    assert not store.has(name)
    with pytest.raises(DataError):
        store.locate(name)()


def read_all(store: ImageStore) -> bool:
    return all(store.locate(name)() == data for name, data in FILES.items())


@places
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_worker_reads_what_its_parent_opened(tmp_path: Path, build: Build) -> None:
    store = open_images(build(tmp_path))
    assert read_all(store)
    child = os.fork()
    if child == 0:
        os._exit(0 if read_all(store) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_spawned_worker_reads_what_its_parent_opened(tmp_path: Path) -> None:
    stores = [open_images(build(tmp_path / build.__name__)) for build in (in_zip, in_shards)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for store in stores:
            readers = [store.locate(name) for name in FILES]
            assert pool.map(type(readers[0]).__call__, readers) == list(FILES.values())


@places
def test_nothing_stays_open_and_everything_pickles(tmp_path: Path, build: Build) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("open files are counted in /proc")
    store = open_images(build(tmp_path))
    before = len(list(descriptors.iterdir()))
    assert all(read_all(pickle.loads(pickle.dumps(store))) for _ in range(20))
    assert len(list(descriptors.iterdir())) == before
    assert len(pickle.dumps(store.locate("yard/a.png"))) < 600


def test_the_one_folder_in_an_archive_may_be_left_out(tmp_path: Path) -> None:
    files = {"train2017/a.png": picture(1), "train2017/b.png": picture(2)}
    for path in (write_zip(tmp_path / "x.zip", files), write_tar(tmp_path / "y.tar", files)):
        store = open_images(path)
        assert store.locate("a.png")() == store.locate("train2017/a.png")() == files["train2017/a.png"]


def test_a_short_name_that_two_zips_have_is_ambiguous(tmp_path: Path) -> None:
    write_zip(tmp_path / "1.zip", {"train/a.png": picture(1)})
    write_zip(tmp_path / "2.zip", {"val/a.png": picture(2)})
    store = open_images(tmp_path)
    assert store.locate("val/a.png")() == picture(2)
    with pytest.raises(DataError, match=r"`a.png` is in more than one zip"):
        store.locate("a.png")()


def test_one_name_in_two_shards_or_zips_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / "tars" / f"{number}.tar", {"a.png": picture(number)})
        write_zip(tmp_path / "zips" / f"{number}.zip", {"a.png": picture(number)})
    with pytest.raises(DataError, match=r"`a.png` must be in one tar shard of .*, got 0.tar and 1.tar"):
        open_images(tmp_path / "tars")
    with pytest.raises(DataError, match=r"`a.png` must be in one zip"):
        open_images(tmp_path / "zips")


def test_files_beside_archives_are_found(tmp_path: Path) -> None:
    for build in (write_tar, write_zip):
        place = tmp_path / build.__name__
        build(place / f"old.{build.__name__[-3:]}", {"a.png": picture(1)})
        write_files(place, {"b/c.png": picture(2)})
        assert open_images(place).locate("b/c.png")() == picture(2)


def test_entries_with_hostile_names_are_not_there(tmp_path: Path) -> None:
    files = {"../evil.png": picture(1), "/abs.png": picture(2), "good.png": picture(3)}
    for path in (write_zip(tmp_path / "x.zip", files), write_tar(tmp_path / "y.tar", files)):
        store = open_images(path)
        assert store.has("good.png")
        assert not store.has("../evil.png")
        assert not store.has("/abs.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.zip", "y.tar"]


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("build", [in_zip, in_stored_zip], ids=lambda build: build.__name__)
def test_a_truncated_zip_is_one_sentence(tmp_path: Path, build: Build, share: float) -> None:
    path = build(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"x\.(zip|ZIP) must be a whole zip file: "):
        open_images(path)


@pytest.mark.parametrize("length", [0, 100, 512 + 20, 2 * 512 + 100])
def test_a_truncated_tar_is_one_sentence(tmp_path: Path, length: int) -> None:
    path = in_tar(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"x\.tar must be a whole, uncompressed tar file: "):
        open_images(path)


def test_an_archive_damaged_after_opening_is_told_when_read(tmp_path: Path) -> None:
    for path in (in_zip(tmp_path), in_stored_zip(tmp_path)):
        reader = open_images(path).locate("yard/a.png")
        data = bytearray(path.read_bytes())
        data[50:60] = bytes(10)
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"yard/a\.png"):
            reader()
        path.write_bytes(data[:40])
        with pytest.raises(DataError, match="ends early"):
            reader()
        path.unlink()
        assert not reader.exists()
        with pytest.raises(DataError, match=r"cannot read .*: No such file"):
            reader()


def test_a_zip_that_unpacks_to_more_than_it_says_is_cut_off(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.png": bytes(10_000_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((10_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"`a.png` of .* is damaged"):
        open_images(path).locate("a.png")()


def test_what_cannot_be_read_in_place_is_refused(tmp_path: Path) -> None:
    squeezed = write_zip(tmp_path / "x.zip", {"a.png": picture()}, zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="must be stored or deflated and not encrypted"):
        open_images(squeezed).locate("a.png")()
    with pytest.raises(DataError, match="must be a whole, uncompressed tar file"):
        open_images(write_tar(tmp_path / "z.tar", {"a.png": picture()}, "w:gz"))


WRONG_PLACES = [
    [],
    {},
    {"shard": "0.tar"},
    7,
    None,
    ["0.tar"],
    ["0.tar", "x", 3],
    ["0.tar", -1, 3],
    ["0.tar", float("inf"), 3],
    ["0.tar", 10**400, 3],
    ["../0.tar", 0, 3],
    ["\ud800", 0, 3],
]


@pytest.mark.parametrize("entry", WRONG_PLACES, ids=range(len(WRONG_PLACES)))
def test_a_wrong_index_entry_is_told_when_read(tmp_path: Path, entry: object) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": picture()})
    write_json(tmp_path / "index_train.json", {"z.png": entry})
    store = open_images(tmp_path)
    assert not store.has("z.png")
    with pytest.raises(DataError):
        store.locate("z.png")()


def test_an_index_of_another_kind_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": picture()})
    (tmp_path / "index_train.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="must be an object of names, got list"):
        open_images(tmp_path)
    (tmp_path / "index_train.json").write_text("{")
    with pytest.raises(DataError, match="cannot read"):
        open_images(tmp_path)


def test_nothing_and_other_things_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="but nothing is at"):
        open_images(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"must be a folder, a .tar or a .zip, got .*notes.txt"):
        open_images(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="must be a whole zip file"):
        ZipImages(tmp_path / "notes.txt")


@given(st.text(alphabet="a./\\:", max_size=12))
def test_a_name_that_passes_stays_below_its_folder(name: str) -> None:
    if stays_inside(name):
        root = Path("/data/images")
        assert root == Path(os.path.normpath(root / name)) or root in Path(os.path.normpath(root / name)).parents
        assert FolderImages(root).locate(name) == FileBytes(root / name)
