"""The routes. Each reads a request away from the event loop, hands it to the scheduler, and sends what comes back.

`create_app` puts everything together; `service` does the work behind the routes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, TypeAdapter
from starlette.exceptions import HTTPException

from llava_grounding import __version__
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.serve import schemas
from llava_grounding.serve.guards import Guard
from llava_grounding.serve.label_studio_routes import add_label_studio
from llava_grounding.serve.metrics import CONTENT_TYPE, Metrics
from llava_grounding.serve.pages import add_page
from llava_grounding.serve.problems import ApiError
from llava_grounding.serve.service import Service
from llava_grounding.serve.settings import ServeSettings

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse, "description": said}
    for status, said in (
        (400, "The request cannot be answered as it is."),
        (401, "The API key is missing or wrong."),
        (404, "There is no such model."),
        (408, "The body came too slowly."),
        (413, "The body is too large."),
        (415, "The body is no JSON."),
        (421, "The server is not known under that name."),
        (422, "Regions were required, and none were found."),
        (429, "Too many requests of one client are under way; Retry-After says when to come again."),
        (500, "A fault of the server."),
        (503, "The server is busy or stopping; Retry-After says when to come again."),
        (504, "The answer took too long."),
    )
}
_RENDERED = {"image/png": {"schema": {"type": "string", "format": "binary"}}, "text/html": {}, "application/json": {}}
_STREAM = {"schema": {"type": "string", "description": "Server-sent events, each a chunk, at last [DONE]."}}


class GroundedServer:
    """A server as an ASGI application, with its parts."""

    def __init__(self, chat: GroundedChat, settings: ServeSettings | None = None) -> None:
        self.settings = settings or ServeSettings()
        self.metrics = Metrics()
        self.service = Service(chat, self.settings, self.metrics)
        self.routes = _routes(self.service, self.metrics)
        if self.settings.label_studio is not None:
            add_label_studio(self.routes, self.service, self.settings, self.settings.label_studio)
        self._app = Guard(self.routes, self.settings, self.metrics)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)


def create_app(chat: GroundedChat, settings: ServeSettings | None = None) -> GroundedServer:
    """The server of a model, to be run by any ASGI server; its lifespan starts and ends the thread of the model."""
    return GroundedServer(chat, settings)


def _routes(service: Service, metrics: Metrics) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="llava-grounding",
        version=__version__,
        description="Grounded visual chat: answers whose phrases are tied to boxes and masks.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_PROBLEMS,
    )

    @app.exception_handler(ApiError)
    async def api_error(_: Request, problem: Exception) -> Response:
        assert isinstance(problem, ApiError)
        return JSONResponse(problem.body(), problem.status, problem.headers)

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = {404: "there is nothing here", 405: "this is asked with another method"}.get(error.status_code)
        problem = ApiError(error.status_code, said or "the request cannot be answered", "not_found")
        return JSONResponse(problem.body(), problem.status, error.headers)

    _add_model_routes(app, service)
    _add_state_routes(app, service, metrics)
    add_page(app)
    _describe_bodies(app)
    return app


def _add_model_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=schemas.ChatCompletion,
        responses={200: {"content": {"text/event-stream": _STREAM}}},
        openapi_extra=_body(schemas.ChatRequest),
        summary="The next answer of a dialogue about an image",
        operation_id="chat",
    )
    async def chat(request: Request) -> Response:
        asked = await service.chat(request)
        if isinstance(asked, dict):
            return JSONResponse(asked)
        return StreamingResponse(asked, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post(
        "/v1/ground",
        response_model=schemas.GroundResponse,
        openapi_extra=_body(schemas.GroundRequest),
        summary="What phrases name in an image, without chat",
        operation_id="ground",
    )
    async def ground(request: Request) -> Response:
        return JSONResponse(await service.ground(request))

    @app.post(
        "/v1/render",
        response_class=Response,
        responses={200: {"content": _RENDERED, "description": "The drawing, the page or the COCO file."}},
        openapi_extra=_body(schemas.RenderRequest),
        summary="An answer as a drawing, a page of HTML, or COCO",
        operation_id="render",
    )
    async def render(request: Request) -> Response:
        data, kind = await service.render(request)
        # Opened by itself, a page of somebody's words runs in a world of its own.
        return Response(data, media_type=kind, headers={"Content-Disposition": "attachment"})

    @app.get("/v1/models", response_model=schemas.ModelList, summary="The model", operation_id="models")
    async def models() -> Any:
        return {"object": "list", "data": [service.card()]}

    @app.get("/v1/models/{name:path}", response_model=schemas.ModelCard, operation_id="model")
    async def model(name: str) -> Any:
        service.check_model(name)
        return service.card()


def _add_state_routes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/healthz", response_model=schemas.Health, summary="The process lives", operation_id="healthz")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok" if service.healthy else "stopping"}, 200 if service.healthy else 503)

    @app.get("/readyz", response_model=schemas.Health, summary="Requests are taken", operation_id="readyz")
    async def readyz() -> Response:
        return JSONResponse({"status": "ok" if service.ready else "stopping"}, 200 if service.ready else 503)

    @app.get("/metrics", response_class=Response, summary="Numbers for Prometheus", operation_id="metrics")
    async def numbers() -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """Routes read bodies themselves; this is how they are described."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def _describe_bodies(app: FastAPI) -> None:
    """Put the types of bodies among the schemas of the OpenAPI document."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            for model in (schemas.ChatRequest, schemas.GroundRequest, schemas.RenderRequest):
                schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
                document["components"]["schemas"].update(schema.pop("$defs", {}))
                document["components"]["schemas"][model.__name__] = schema
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
