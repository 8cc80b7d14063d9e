"""The application that Ray Serve imports: ``serve run server.ray:application``. It needs the extra ``ray``."""

from server.cluster.application import application

__all__ = ["application"]
