"""From the settings to what a server shares."""

from aiohttp import web
from prometheus_client.registry import Collector

from server.config import Settings
from server.image_store import ImageStore
from server.limits.limiter import Limiter
from server.sharing.images import SharedImageStore
from server.sharing.limits import SharedLimits
from server.sharing.store import RedisStore, StoreMetrics


class Sharing:
    """The limits and pictures that this server shares with others, where the settings name a Redis for them."""

    def __init__(self, settings: Settings, limiter: Limiter) -> None:
        """Raises: SetupError with what to do."""
        metrics = StoreMetrics()
        self._stores: list[RedisStore] = []
        self._limits: SharedLimits | None = None
        self._images: SharedImageStore | None = None
        if url := settings.limits.store:
            store = RedisStore(url, "limits", metrics, meanwhile="each server limits on its own")
            self._stores.append(store)
            self._limits = SharedLimits(store, limiter.buckets)
        room, expires = settings.image.kept_bytes, settings.image.expires
        if url := settings.image.store:
            store = RedisStore(url, "image", metrics, meanwhile="pictures are only with the server that drew them")
            self._stores.append(store)
            self._images = SharedImageStore(room, expires, store)
        self.images: ImageStore = ImageStore(room, expires) if self._images is None else self._images
        self.collectors: tuple[Collector, ...] = metrics.collectors if self._stores else ()

    async def start(self, app: web.Application) -> None:
        """Begin to share; Redis is not waited for."""
        for each in (self._limits, self._images):
            if each is not None:
                await each.start()

    async def close(self, app: web.Application) -> None:
        """Share what was not shared yet, where Redis answers, and end."""
        for each in (self._limits, self._images):
            if each is not None:
                await each.close()
        for store in self._stores:
            await store.close()
