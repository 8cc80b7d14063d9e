"""What goes wrong for a client's user."""


class ClientError(Exception):
    """The client failed; the message is for the user."""


class UsageError(ClientError):
    """An option or argument is invalid."""


class ConnectionFailedError(ClientError):
    """The server is unreachable, closed the connection, or refused access."""
