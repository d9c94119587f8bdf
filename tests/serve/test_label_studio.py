"""Label Studio as a client: its requests as its own connector makes them, and answers in the form that it reads."""

from __future__ import annotations

import asyncio
import base64
import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
from live_server import data_url, serving

from llava_grounding.errors import DataError
from llava_grounding.labelling.brush import encode_brush
from llava_grounding.serve.label_studio import LabellingConfig, LabelStudioBackend
from llava_grounding.serve.task_pictures import LabelStudioSettings
from llava_grounding.structures import GroundedPhrase, Region, VisualPrompt
from tiny_model import picture

CONFIG = """<View>
  <Header value="What is here?"/>
  <Image name="photo" value="$picture" zoom="true"/>
  <BrushLabels name="masks" toName="photo"><Label value="red dog"/><Label value="cat"/></BrushLabels>
  <KeyPointLabels name="points" toName="photo" smart="true">
    <Label value="red dog"/><Label value="cat"/>
  </KeyPointLabels>
  <RectangleLabels name="boxes" toName="photo" smart="true"><Label value="cat"/></RectangleLabels>
</View>"""
BOXES = CONFIG.replace("BrushLabels", "Choices")
SIZE = (20, 10)


def request(tasks: Sequence[str], context: list[dict[str, Any]] | None = None, config: str = CONFIG) -> dict[str, Any]:
    """A body of /predict as the connector of Label Studio makes it."""
    return {
        "tasks": [{"id": number, "data": {"picture": one}, "annotations": []} for number, one in enumerate(tasks, 7)],
        "model_version": None,
        "project": "3.1615892345",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None if context is None else {"result": context}},
    }


def point(x: float, y: float, label: str = "cat", positive: int = 1) -> dict[str, Any]:
    """A key point at pixels of the picture."""
    value = {"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1], "width": 0.3, "keypointlabels": [label]}
    return {
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": value,
        "is_positive": positive,
        "id": "fBWv1t0S2L",
        "from_name": "points",
        "to_name": "photo",
        "type": "keypointlabels",
        "origin": "manual",
    }


def rectangle(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    place = {"x": 100 * x0 / SIZE[0], "y": 100 * y0 / SIZE[1], "rotation": 0}
    sides = {"width": 100 * (x1 - x0) / SIZE[0], "height": 100 * (y1 - y0) / SIZE[1]}
    return {"type": "rectanglelabels", "value": {**place, **sides, "rectanglelabels": ["cat"]}}


def region(x0: int, y0: int, x1: int, y1: int, score: float) -> Region:
    mask = np.zeros(SIZE[::-1], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return Region((x0, y0, x1, y1), score, mask)


LEFT, RIGHT, WIDE = region(0, 0, 5, 5, 0.6), region(10, 0, 15, 5, 0.9), region(0, 0, 20, 10, 0.3)
SAID = region(16, 6, 20, 10, 0.5)


def backend() -> tuple[LabelStudioBackend, list[VisualPrompt]]:
    """One whose model finds three cats and no dog, and says what is in the lower right corner when it is pointed at."""
    pointed: list[VisualPrompt] = []

    async def ground(
        address: str, phrases: Sequence[str], threshold: float | None
    ) -> tuple[tuple[int, int], list[GroundedPhrase]]:
        regions = {"cat": (RIGHT, LEFT) if threshold is None else (RIGHT, LEFT, WIDE)}
        found = [GroundedPhrase(0, one, (0, len(one)), regions.get(one, ()), 0.9) for one in phrases]
        return SIZE, found

    async def point_at(address: str, prompt: VisualPrompt, threshold: float | None) -> list[Region]:
        pointed.append(prompt)
        return [SAID]

    return LabelStudioBackend("made-up", ground, point_at, 1), pointed


def masks_of(predicted: dict[str, Any]) -> list[tuple[str, list[int]]]:
    (prediction,) = predicted["results"]
    return [(one["value"]["brushlabels"][0], one["value"]["rle"]) for one in prediction["result"]]


def test_a_task_gets_all_that_has_a_label_under_the_names_of_the_config() -> None:
    asked, pointed = backend()
    predicted = asyncio.run(asked.predict(request(["a.png"])))
    assert masks_of(predicted) == [("cat", encode_brush(RIGHT.mask)), ("cat", encode_brush(LEFT.mask))]
    (prediction,) = predicted["results"]
    assert (prediction["model_version"], prediction["score"]) == ("made-up", 0.75)
    for one in prediction["result"]:
        assert (one["type"], one["from_name"], one["to_name"]) == ("brushlabels", "masks", "photo")
        assert (one["original_width"], one["original_height"], one["image_rotation"]) == (*SIZE, 0)
        assert one["value"]["format"] == "rle"
    (prediction,) = asyncio.run(asked.predict(request(["a.png"], config=BOXES)))["results"]
    assert [(one["type"], one["from_name"]) for one in prediction["result"]] == [("rectanglelabels", "boxes")] * 2
    value = prediction["result"][0]["value"]
    assert value == {"x": 50, "y": 0, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    assert not pointed


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ([point(2, 2)], LEFT),
        ([point(12, 2)], RIGHT),
        ([point(2, 2), point(12, 2)], WIDE),  # both belong to the thing
        ([point(2, 2), point(8, 8), point(12, 2, positive=0)], None),
        ([rectangle(9, 0, 15, 6)], RIGHT),
        ([point(18, 8), point(2, 2, positive=0)], SAID),  # no cat by name: what the model says is there
    ],
)
def test_a_click_or_a_box_gets_the_mask_of_what_it_means(
    context: list[dict[str, Any]], expected: Region | None
) -> None:
    asked, pointed = backend()
    found = masks_of(asyncio.run(asked.predict(request(["a.png"], context))))
    assert found == ([] if expected is None else [("cat", encode_brush(expected.mask))])
    assert [prompt.kind for prompt in pointed] == (["click"] if expected in (None, SAID) else [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "a request must be an object"),
        (request(["a"], config="<View"), "label_config must be XML, and cannot be read"),
        (request(["a"], config='<!DOCTYPE x [<!ENTITY a "b">]><View/>'), "without a DOCTYPE"),
        (request(["a"], config="<View/>"), "must have an Image with a name"),
        (request(["a"], config='<View><Image name="i" value="$a"/></View>'), "must have BrushLabels or Rectangle"),
        (request(["a"] * 51), "tasks must be a list of at most 50"),
        ({**request([]), "tasks": [{"data": {}}]}, "the data of a task must have `picture`"),
        (request(["a"], [{"type": "brushlabels", "value": {}}]), "must have key points and rectangles"),
        (request(["a"], [point(1, 1, positive=0)]), "a point inside the thing or a rectangle around it"),
        (request(["a"], [{**point(1, 1), "value": {"x": "1e999", "y": 0, "keypointlabels": ["cat"]}}]), "in percent"),
        (request(["a"], [{**point(1, 1), "value": 5}]), "must have results as Label Studio makes them"),
    ],
)
def test_what_label_studio_would_not_send_is_refused(body: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        asyncio.run(backend()[0].predict(body))
    many = "".join(f'<Label value="{number}"/>' for number in range(201))
    with pytest.raises(DataError, match="at most 200 labels, got 203"):
        LabellingConfig.parse(CONFIG.replace('<Label value="cat"/></Rect', f"{many}</Rect"))


class Uploads(http.server.BaseHTTPRequestHandler):
    """A Label Studio that gives one upload to whoever has the token, and leads astray."""

    def do_GET(self) -> None:
        token = self.headers.get("Authorization") == "Token secret"
        found = self.path == "/base/data/upload/3/a.png" and token
        self.send_response(200 if found else 302)
        self.send_header("Location", "/base/data/upload/3/a.png")
        self.end_headers()
        if found:
            self.wfile.write(base64.b64decode(data_url().partition(",")[2]))

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def uploads() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Uploads) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/base"
        server.shutdown()
        thread.join()


def test_the_server_is_a_backend_with_pictures_of_its_folder_and_of_label_studio(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    picture().save(folder / "a b.png")
    picture().save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    with (
        uploads() as url,
        serving(api_key="key", label_studio=LabelStudioSettings(folder, url, "secret")) as live,
        httpx2.Client(base_url=f"{live.url}/label-studio/", auth=("anybody", "key"), trust_env=False) as client,
    ):
        assert httpx2.get(f"{live.url}/label-studio/health").status_code == 401
        assert client.get("health").json()["status"] == "UP"
        setup = {"project": "3.1", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
        assert client.post("setup", json=setup).json() == {"model_version": live.chat.name}
        assert client.post("setup", json={**setup, "schema": "<View/>"}).status_code == 400
        assert client.post("webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
        local = f"/data/local-files/?d={quote('a b.png')}"
        same = [data_url(), local, "/data/upload/3/a.png", f"{url}/data/upload/3/a.png"]
        answered = client.post("predict", json=request(same))
        assert answered.status_code == 200, answered.text
        results = answered.json()["results"]
        expected = live.chat.ground(picture(), ["red dog", "cat"])
        regions = [one for phrase in expected for one in phrase.regions]
        assert [len(one["result"]) for one in results] == [len(regions)] * 4
        assert results[0] == results[1] == results[2] == results[3]
        y, x = np.argwhere(regions[0].mask)[0]
        place = {"x": 100 * (x + 0.5) / 90, "y": 100 * (y + 0.5) / 60, "keypointlabels": ["red dog"]}
        (pointed,) = client.post("predict", json=request([local], [{**point(0, 0), "value": place}])).json()["results"]
        assert len(pointed["result"]) == 1
        for address in (
            "/data/local-files/?d=link.png",
            "/data/local-files/?d=../outside.png",
            f"/data/local-files/?d={tmp_path}/outside.png",
            "/data/local-files/?d=none.png",
            "/data/upload/4/astray.png",
            "/data/../data/upload/3/a.png",
            "/etc/passwd",
            "http://127.0.0.1/a.png",
            "file:///etc/passwd",
        ):
            refused = client.post("predict", json=request([address]))
            assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error"), address
