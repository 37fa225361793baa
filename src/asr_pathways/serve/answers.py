"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from starlette.responses import JSONResponse


def error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in JSON."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status, headers)


def busy(message: object) -> JSONResponse:
    """What is refused because there is too much to do."""
    return error(429, str(message), {"Retry-After": "1"})
