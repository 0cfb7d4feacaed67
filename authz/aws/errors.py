"""The exception that refuses a call, with AWS's error codes and their HTTP statuses."""

from __future__ import annotations

from typing import Final

from authz.core.problem import Problem

STATUS: Final = {
    "BadRequestException": 400,
    "ValidationException": 400,
    "SerializationException": 400,
    "UnauthorizedException": 401,
    "AccessDeniedException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "UnrecognizedClientException": 403,
    "NotFoundException": 404,
    "ConflictException": 409,
    "RequestTooLargeException": 413,
    "LimitExceededException": 429,
    "TooManyRequestsException": 429,
    "NotImplementedException": 501,
    "ServiceUnavailableException": 503,
}


class ApiError(Exception):
    """A refused call. `code` is AWS's name of the error; `retry_after` is in seconds.

    `problems` are the mistakes in a document of ours, which the message names too.
    """

    def __init__(
        self, code: str, message: str, retry_after: int | None = None, problems: tuple[Problem, ...] = ()
    ) -> None:
        super().__init__(message)
        self.problems = problems
        self.code = code
        self.message = message
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return STATUS[self.code]


def bad_request(message: str, problems: tuple[Problem, ...] = ()) -> ApiError:
    return ApiError("BadRequestException", message, problems=problems)


def not_found(message: str) -> ApiError:
    return ApiError("NotFoundException", message)


def conflict(message: str) -> ApiError:
    return ApiError("ConflictException", message)


def limit_exceeded(message: str) -> ApiError:
    return ApiError("LimitExceededException", message, retry_after=1)
