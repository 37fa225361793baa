"""The routes of a server, who may use them, and how errors are answered."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from asr_pathways.errors import PathwaysError
from asr_pathways.serve.answers import busy, error
from asr_pathways.serve.live import live
from asr_pathways.serve.service import Busy, Service
from asr_pathways.serve.transcriptions import require_model, transcriptions
from asr_pathways.serve.vosk import vosk

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")

PAGE = Path(__file__).with_name("page")

_PAGE_HEADERS = {  # the page asks nobody else for anything, and stands in no other page
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

OPEN = ("/", "/health")
"""Paths that need no token, beside the page's files: nothing of the model or of other clients is there."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def make_app(service: Service, *, local: bool, beside: AbstractAsyncContextManager[None] | None) -> Starlette:
    """The application.

    Args:
        service: what it serves.
        local: whether only this machine reaches it: then it answers only to its names. Otherwise a page of another
            host, whose name was made to lead here, could use it.
        beside: what else is served, while it is.
    """

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        async with beside or nullcontext():
            yield
        service.close()

    middleware = [Middleware(_Counted, service=service), Middleware(_Ended)]
    if local:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK), www_redirect=False))
    middleware.append(Middleware(_Guard, token=service.options.token))
    app = Starlette(
        routes=_routes(),
        middleware=middleware,
        exception_handlers={PathwaysError: _bad, HTTPException: _refused, Busy: _busy, Exception: _failed},
        lifespan=closing,
    )
    app.state.service = service
    return app


def _routes() -> list[BaseRoute]:
    return [
        Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
        WebSocketRoute("/v1/stream", live),
        WebSocketRoute("/vosk", vosk),
        Route("/v1/models", _models),
        Route("/v1/models/{name:path}", _model),
        Route("/", _page),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/health", _health),
        Route("/metrics", _metrics),
    ]


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_described(request.app.state.service)]})


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    require_model(request.path_params["name"], service)
    return JSONResponse(_described(service))


def _described(service: Service) -> dict[str, object]:
    recognizer = service.recognizer
    return {
        "id": service.name,
        "object": "model",
        "created": 0,
        "owned_by": "asr-pathways",
        "languages": recognizer.languages,
        "auto": service.auto,
        "streams": recognizer.streams,
        "kept": service.kept,
    }


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    return PlainTextResponse(service.metrics(), media_type="text/plain; version=0.0.4")


async def _bad(_: Request, raised: Exception) -> Response:
    return error(400, str(raised))


async def _refused(_: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    return error(raised.status_code, raised.detail, dict(raised.headers or {}))


async def _busy(_: Request, raised: Exception) -> Response:
    return busy(raised)


async def _failed(_: Request, raised: Exception) -> Response:
    return error(500, "the server failed: its log says how")


class _Guard:
    """Refuses who has not the token, and pages of other origins, whose browser would send what they like."""

    def __init__(self, app: Any, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(HTTPConnection(scope))) is not None:
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, send).send_denial_response(refusal)
            else:
                await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        origin = connection.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != connection.headers.get("host"):
            return error(403, f"pages of {origin} may not use this server")
        path = connection.url.path
        if self._token is None or path in OPEN or path.startswith("/page/"):
            return None
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            # Browsers send no header with a WebSocket.
            given = connection.query_params.get("token", "") if connection.scope["type"] == "websocket" else ""
        if hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return None
        return error(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})


class _Ended:
    """Answers requests that are cancelled, as only the server's end cancels any."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        begun = scope["type"] != "http"

        async def noted(message: _Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if not begun:
                await error(503, "the server has ended")(scope, receive, send)


class _Counted:
    """Counts responses by route and status."""

    def __init__(self, app: Any, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        async def counted(message: _Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                # Only routes and methods that exist have names here: clients must not be able to make others.
                route = getattr(scope.get("route"), "path", "other")
                method = scope.get("method", "GET")
                method = method if method in ("GET", "POST", "HEAD") else "other"
                self._service.counts[method, route, message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counted if scope["type"] != "lifespan" else send)
