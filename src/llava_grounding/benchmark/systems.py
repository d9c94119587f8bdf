"""Who answers: a model of ours in this process, or an OpenAI-compatible endpoint whose answers carry our grounding.

A `SystemSpec` is plain data, so that a worker on another machine can build the same system. Systems answer blocks of
samples; the same block gets the same answers wherever and whenever it is asked. Knows no task's metric and no files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from llava_grounding.benchmark.baselines import AnsweringSystem, Request
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction, phrase_of, prediction_of
from llava_grounding.benchmark.samples import BenchmarkSample, as_box
from llava_grounding.benchmark.tasks import Ask
from llava_grounding.data.image_names import coco_spellings
from llava_grounding.data.images import ImageStore, open_images
from llava_grounding.data.mark_drawing import draw_marks
from llava_grounding.data.record import open_labelled
from llava_grounding.endpoints.client import AccessError, BusyError, OpenAIEndpoint
from llava_grounding.endpoints.interrupts import run_interruptible
from llava_grounding.errors import DataError, ImageError, LlavaGroundingError, one_line, shown
from llava_grounding.masks import check_rle, decode_rle
from llava_grounding.render.embedding import data_url
from llava_grounding.scenes.records import SCENE_PICTURES, ScenePictures
from llava_grounding.structures import GroundedAnswer

Asked = tuple[BenchmarkSample, Ask]
_LONGEST_ERROR = 300


@dataclass(frozen=True)
class SystemSpec:
    """Which system, as plain data.

    Args:
        kind: `model`: one of ours, loaded here; `endpoint`: a server.
        model: a folder, hub id or None for the embedded model; of an endpoint the name it goes by.
        model_hash: SHA-256 of the weights, where they are at hand.
        base_url: of an endpoint.
        images: where the pictures are; `SCENE_PICTURES` are drawn.
        device: for the model; None chooses.
        max_new_tokens: where answers are cut.
        num_queries: object queries that the grounder picks; None: as many as the model was made for.
        settings_hash: SHA-256 of the model's other files, where they are at hand.
    """

    kind: Literal["model", "endpoint"]
    model: str | None = None
    model_hash: str = ""
    base_url: str = ""
    images: str = ""
    device: str | None = None
    max_new_tokens: int = 256
    num_queries: int | None = None
    settings_hash: str = ""

    def about(self) -> dict[str, Any]:
        """What decides the answers; the device and the place of the pictures do not."""
        unsaid = {"num_queries": self.num_queries is None, "settings_hash": not self.settings_hash}
        left_out = ("images", "device", *(name for name, empty in unsaid.items() if empty))
        return {key: value for key, value in asdict(self).items() if key not in left_out}


class System(Protocol):
    """A system under test: it answers samples."""

    def answer(self, block: Sequence[Asked]) -> list[Prediction]:
        """One prediction per sample, in order; what fails is an error of that sample."""
        ...


class ChatSystem:
    """A model in this process, or anything with the `AnsweringSystem` protocol.

    Args:
        max_new_tokens: passed on where the chat takes it; None = as it likes.
        on_answer: called with each sample that was answered with regions, its picture and the answer.
    """

    def __init__(
        self,
        chat: AnsweringSystem,
        images: ImageStore,
        max_new_tokens: int | None = None,
        on_answer: Callable[[BenchmarkSample, np.ndarray, GroundedAnswer], None] | None = None,
    ) -> None:
        self._chat, self._images, self._on_answer = chat, images, on_answer
        self._more: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}

    def answer(self, block: Sequence[Asked]) -> list[Prediction]:
        """All questions of the block together; if that fails, one by one, so that one bad sample costs no other."""
        pictures: dict[int, np.ndarray] = {}
        found: dict[int, Prediction] = {}
        for number, (sample, ask) in enumerate(block):
            try:
                pictures[number] = read_picture(self._images, sample, ask)
            except (DataError, ImageError) as error:
                found[number] = _failed(sample, error)
        questions = [number for number in pictures if block[number][1].question]
        found |= self._ask(block, pictures, questions)
        for number in pictures:
            if number not in found:
                found[number] = self._ground(*block[number], pictures[number])
        return [found[number] for number in range(len(block))]

    def _ask(
        self, block: Sequence[Asked], pictures: Mapping[int, np.ndarray], numbers: Sequence[int]
    ) -> dict[int, Prediction]:
        def request(number: int, grounded: bool) -> Request:
            ask = block[number][1]
            return pictures[number], ask.question, ask.prompts, grounded

        begin = time.perf_counter()
        answers = self._answers([request(number, block[number][1].grounded) for number in numbers])
        seconds = (time.perf_counter() - begin) / max(len(numbers), 1)
        plain = [number for number in numbers if block[number][1].also_plain]
        texts = dict(zip(plain, self._answers([request(number, False) for number in plain]), strict=True))
        found = {}
        for number, answer in zip(numbers, answers, strict=True):
            sample, again = block[number][0], texts.get(number)
            if isinstance(answer, LlavaGroundingError):
                found[number] = _failed(sample, answer)
            else:
                words = again.text if isinstance(again, GroundedAnswer) else None
                found[number] = replace(prediction_of(sample.id, answer, words), seconds=seconds)
                if self._on_answer is not None:
                    self._on_answer(sample, pictures[number], answer)
        return found

    def _answers(self, requests: Sequence[Request]) -> list[GroundedAnswer | LlavaGroundingError]:
        if not requests:
            return []
        try:
            return list(self._chat.ask_batch(requests, **self._more))
        except LlavaGroundingError as error:
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._answers([request])]

    def _ground(self, sample: BenchmarkSample, ask: Ask, picture: np.ndarray) -> Prediction:
        try:
            phrases = self._chat.ground(picture, ask.phrases)
        except LlavaGroundingError as error:
            return _failed(sample, error)
        return Prediction(sample.id, "", tuple(map(phrase_of, phrases)))


class EndpointSystem:
    """A server with the API of `llava-grounding serve`: answers with `grounding` beside their text.

    Args:
        endpoint: makes a client; those of one block are asked at once.
        first_wait: seconds before the second attempt; it doubles with each.
    """

    def __init__(
        self,
        spec: SystemSpec,
        images: ImageStore,
        endpoint: Callable[[], OpenAIEndpoint],
        attempts: int = 6,
        first_wait: float = 1.0,
    ) -> None:
        self._spec, self._images, self._endpoint = spec, images, endpoint
        self._attempts, self._first_wait = attempts, first_wait

    def answer(self, block: Sequence[Asked]) -> list[Prediction]:
        return run_interruptible(lambda: self._block(block), lambda: True)

    async def _block(self, block: Sequence[Asked]) -> list[Prediction]:
        endpoint = self._endpoint()
        try:
            return list(await asyncio.gather(*(self._one(endpoint, sample, ask) for sample, ask in block)))
        finally:
            await endpoint.close()

    async def _one(self, endpoint: OpenAIEndpoint, sample: BenchmarkSample, ask: Ask) -> Prediction:
        try:
            picture = data_url(Image.fromarray(read_picture(self._images, sample, ask)))
            if not ask.question:
                return await self._ground(endpoint, sample, ask, picture)
            answer = await self._ask(endpoint, sample, ask, picture, ask.grounded)
            if not ask.also_plain:
                return answer
            plain = await self._ask(endpoint, sample, ask, picture, grounded=False)
            return replace(answer, plain_text=plain.text)
        except (AccessError, BusyError):
            raise  # no later sample would fare better; the same command resumes from here
        except (LlavaGroundingError, ValueError, LookupError, TypeError, AttributeError) as error:
            return _failed(sample, error)

    async def _ask(
        self, endpoint: OpenAIEndpoint, sample: BenchmarkSample, ask: Ask, picture: str, grounded: bool
    ) -> Prediction:
        parts = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": ask.question},
            *({"type": "region", **prompt} for prompt in sample.prompts),
        ]
        body = {
            "model": self._spec.model,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": self._spec.max_new_tokens,
            "grounding": {"mode": "auto" if grounded else "off", "masks": "rle"},
        }
        reply = await self._tried(lambda: endpoint.complete(body))
        value = reply.more.get("grounding")
        if not grounded or value is None:
            return Prediction(sample.id, reply.text)
        return prediction_of(sample.id, GroundedAnswer.from_dict(value))

    async def _ground(self, endpoint: OpenAIEndpoint, sample: BenchmarkSample, ask: Ask, picture: str) -> Prediction:
        body = {"image": {"url": picture}, "phrases": list(ask.phrases)}
        value = await self._tried(lambda: endpoint.post("/ground", body))
        size_hw = (sample.image_size_wh[1], sample.image_size_wh[0])
        phrases = []
        for text, one in zip(ask.phrases, value["phrases"], strict=True):
            regions = tuple(_region(region, size_hw) for region in one["regions"])
            phrases.append(PredictedPhrase(text, regions))
        return Prediction(sample.id, "", tuple(phrases))

    async def _tried(self, call: Callable[[], Awaitable[Any]]) -> Any:
        for attempt in range(self._attempts):
            try:
                return await call()
            except BusyError as error:
                if attempt + 1 == self._attempts:
                    raise
                wait = self._first_wait * 2**attempt
                await asyncio.sleep(wait if error.pause is None else max(wait, error.pause))
        raise AssertionError("unreachable")


def _region(value: Mapping[str, Any], size_hw: tuple[int, int]) -> PredictedRegion:
    """A region as our server writes it."""
    mask = value.get("mask")
    code = None if mask is None else check_rle(mask, size_hw)
    return PredictedRegion(as_box(value["box"]), float(value["score"]), code)


def read_picture(images: ImageStore, sample: BenchmarkSample, ask: Ask) -> np.ndarray:
    """Pixels (H, W, 3) of a sample, with its marks drawn in.

    Raises:
        DataError: if the picture is missing or has another size than its labels say.
    """
    pixels = _pixels(images, sample.image, sample.image_size_wh)
    size = (pixels.shape[1], pixels.shape[0])
    if sample.instances and size != sample.image_size_wh:
        raise DataError(f"{shown(sample.image)} must be {sample.image_size_wh} as its labels say, got {size}")
    if not ask.marks:
        return pixels
    things = [sample.instances[index] for index in ask.marks]
    masks = [None if one.mask is None else decode_rle(one.mask, pixels.shape[:2]) for one in things]
    return draw_marks(pixels, masks, np.array([one.box_xyxy for one in things]), range(1, len(things) + 1))


@lru_cache(maxsize=1)
def _pixels(images: ImageStore, image: str, labelled_wh: tuple[int, int]) -> np.ndarray:
    """The picture, kept for the next question about it; turned upright unless its labels are of it as it is stored."""
    name = next((one for one in (image, *coco_spellings(image)) if images.has(one)), image)
    picture, _ = open_labelled(images.locate(name)(), labelled_wh, name=shown(image))
    return np.array(picture)


def _failed(sample: BenchmarkSample, error: Exception) -> Prediction:
    return Prediction(sample.id, error=one_line(error, _LONGEST_ERROR))


@lru_cache(maxsize=1)
def load_system(spec: SystemSpec, api_key: str = "none") -> System:
    """The system of a specification, loaded once in a process."""
    images = _open_pictures(spec.images)
    if spec.kind == "endpoint":
        return EndpointSystem(spec, images, lambda: OpenAIEndpoint(spec.base_url, api_key, timeout=300.0))
    from llava_grounding.inference.engine import GroundedChat
    from llava_grounding.model.builders import set_num_queries

    chat = GroundedChat.from_pretrained(spec.model, spec.device)
    if spec.num_queries is not None:
        set_num_queries(chat.model.grounder, chat.model.config, spec.num_queries)
    return ChatSystem(chat, images, spec.max_new_tokens)


def _open_pictures(place: str) -> ImageStore:
    if not place:
        raise DataError("asking a system needs the pictures; give their folder with --images")
    return ScenePictures() if place == SCENE_PICTURES else open_images(Path(place))
