"""Label Studio's routes on the server: the backend asks the same scheduler as everybody else's requests do."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import from_json

from llava_grounding.errors import DataError
from llava_grounding.inference.decoding import Decoding
from llava_grounding.serve.disconnects import unless_left
from llava_grounding.serve.jobs import AnswerWritten, PhrasesFound
from llava_grounding.serve.label_studio import POINTED_QUESTION, LabelStudioBackend
from llava_grounding.serve.service import Service
from llava_grounding.serve.settings import ServeSettings
from llava_grounding.serve.task_pictures import LabelStudioSettings, TaskPictures
from llava_grounding.serve.tasks import ChatQuestion, ChatTask, GroundTask
from llava_grounding.structures import GroundedPhrase, Region, VisualPrompt

PREFIX = "/label-studio"
_TOKENS = 64  # of an answer that says what one thing is


def add_label_studio(
    app: FastAPI, service: Service, settings: ServeSettings, label_studio: LabelStudioSettings
) -> None:
    """Add the routes that Label Studio asks when `http://HOST:PORT/label-studio` is connected as a model."""
    backend = _backend(service, settings, label_studio)

    async def body(request: Request) -> object:
        data = await request.body()
        try:
            return from_json(data)
        except ValueError:
            raise service.problem(DataError("the body must be JSON as Label Studio sends it")) from None

    @app.get(PREFIX, include_in_schema=False)
    @app.get(f"{PREFIX}/health", include_in_schema=False)
    async def health() -> Response:
        return JSONResponse(backend.health())

    @app.post(f"{PREFIX}/setup", include_in_schema=False)
    async def setup(request: Request) -> Response:
        try:
            return JSONResponse(backend.setup(await body(request)))
        except DataError as error:
            raise service.problem(error) from None

    @app.post(f"{PREFIX}/predict", include_in_schema=False)
    async def predict(request: Request) -> Response:
        asked = await body(request)
        try:
            return JSONResponse(await unless_left(request, backend.predict(asked)))
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets no text of it
            raise service.problem(error) from None

    @app.post(f"{PREFIX}/webhook", include_in_schema=False)
    async def webhook(_: Request) -> Response:
        return JSONResponse({"status": "ok", "result": "this model is not trained by annotations"}, 200)


def _backend(service: Service, settings: ServeSettings, label_studio: LabelStudioSettings) -> LabelStudioBackend:
    pictures = TaskPictures(label_studio, settings.image_limits, service.images.bytes_of)

    async def ground(
        address: str, phrases: Sequence[str], score_threshold: float | None
    ) -> tuple[tuple[int, int], list[GroundedPhrase]]:
        picture = await service.in_thread(lambda: service.images.read_bytes(pictures.bytes_of(address)))
        found = await service.last(GroundTask(picture, tuple(phrases), score_threshold))
        assert isinstance(found, PhrasesFound)
        return picture.size_wh, await service.in_thread(lambda: service.phrases(found))

    async def point(address: str, prompt: VisualPrompt, score_threshold: float | None) -> list[Region]:
        picture = await service.in_thread(lambda: service.images.read_bytes(pictures.bytes_of(address)))
        prompt.validate(picture.size_wh)
        question = ChatQuestion(POINTED_QUESTION, (prompt,))
        task = ChatTask(picture, (), question, True, Decoding(_TOKENS, score_threshold=score_threshold))
        written = await service.last(task)
        assert isinstance(written, AnswerWritten)
        answer = await service.in_thread(written.answer)
        return [region for phrase in answer.phrases for region in phrase.regions]

    return LabelStudioBackend(service.name, ground, point, settings.max_phrases)
