"""What goes wrong. The message is for people; ``code`` is for programs."""


class LoquentError(Exception):
    """Anything that goes wrong. ``code`` is the server's own, one of those below, or empty."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class UsageError(LoquentError):
    """An argument is invalid, such as an address that is none."""


class ConnectionFailedError(LoquentError):
    """The server is unreachable, refused access, or the session is lost.

    ``code`` is the server's where it gave one (``invalid_api_key``, ``origin_not_allowed``, ``session_not_found``, …);
    otherwise ``unreachable``, ``untrusted_certificate``, ``no_answer``, ``gone``, ``shutting_down``, ``taken_over``,
    ``message_too_large`` or ``malformed``.
    """


class RefusedError(LoquentError):
    """The server refused a request, or could not do what it asks for; ``code`` is the server's.

    The session goes on. ``status`` is the HTTP status, where there is one.
    """

    def __init__(self, message: str, code: str = "", status: int = 0) -> None:
        super().__init__(message, code)
        self.status = status
