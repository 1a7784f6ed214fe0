"""What a client is told when something is refused: one shape, `{"error": {"code", "message", "param", "type"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A refusal. `code` is for programs, `message` is one line for people, `param` names the field."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"code": self.code, "message": self.message, "param": self.param, "type": kind}}


def invalid(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """422, for a field that cannot be used as it is."""
    return ApiError(422, code, message, param)


def not_found(video_id: str) -> ApiError:
    return ApiError(404, "video_not_found", f"there is no video {video_id[:64]!r}", "video_id")
