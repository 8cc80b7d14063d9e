"""``/v1/conversations``: conversations that responses add to, and their items."""

import secrets
import time
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from server.api import requests
from server.api.responses.items import Items
from server.api.responses.request import Metadata
from server.api.responses.state import RESPONSES, not_found
from server.api.responses.stored import Paging, listing, page
from server.auth import OWNER
from server.response_store import Record

NEW_ITEMS = 20  # of one request


class ConversationRequest(BaseModel):
    """What a conversation begins with."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    items: Annotated[Items, Field(max_length=NEW_ITEMS)] | None = None
    metadata: Metadata | None = None


class MetadataRequest(BaseModel):
    """What is to be changed of a conversation."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    metadata: Metadata | None = None


class ItemsRequest(BaseModel):
    """What is to be added to a conversation."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    items: Annotated[Items, Field(min_length=1, max_length=NEW_ITEMS)]


async def create(request: web.Request) -> web.Response:
    """A new conversation, to which responses add what they read and say."""
    tenant, responses = request[OWNER], request.app[RESPONSES]
    raw = await requests.body(request)
    asked = requests.read(raw or b"{}", ConversationRequest, ignored={})
    items = await responses.resolved(tenant, asked.items or (), "items")
    responses.check_room(len(items), "items")
    id = f"conv_{secrets.token_hex(24)}"
    body = {"id": id, "object": "conversation", "created_at": int(time.time()), "metadata": asked.metadata or {}}
    await responses.store.put(tenant, Record(id, body, items))
    return web.json_response(body)


async def list_conversations(request: web.Request) -> web.Response:
    """The conversations, newest first by default. Raises: ApiError 400, 404 for what the query says wrong."""
    wanted = Paging.of(request)
    found = await request.app[RESPONSES].store.conversations(
        request[OWNER], after=wanted.after, limit=wanted.limit, newest_first=wanted.order == "desc"
    )
    if found is None:
        raise not_found("conversation", wanted.after, "after")
    return web.json_response(listing(*found))


async def retrieve(request: web.Request) -> web.Response:
    """A conversation. Raises: ApiError 404."""
    return web.json_response((await _conversation(request)).body)


async def update(request: web.Request) -> web.Response:
    """Change a conversation's metadata. Raises: ApiError 404."""
    asked = requests.read(await requests.body(request), MetadataRequest, ignored={})
    record, metadata = await _conversation(request, to_change=True), asked.metadata or {}
    if not await request.app[RESPONSES].store.describe(request[OWNER], record.id, metadata):
        raise not_found("conversation", record.id, "conversation_id")
    return web.json_response(record.body | {"metadata": metadata})


async def delete(request: web.Request) -> web.Response:
    """Drop a conversation. Raises: ApiError 404."""
    record = await _conversation(request)
    await request.app[RESPONSES].store.delete(request[OWNER], record.id)
    return web.json_response({"id": record.id, "object": "conversation.deleted", "deleted": True})


async def list_items(request: web.Request) -> web.Response:
    """The items of a conversation. Raises: ApiError 404."""
    return web.json_response(page(request, (await _conversation(request)).items))


async def add_items(request: web.Request) -> web.Response:
    """Add items to a conversation. Raises: ApiError 404, 400 where they are too many."""
    tenant, responses = request[OWNER], request.app[RESPONSES]
    asked = requests.read(await requests.body(request), ItemsRequest, ignored={})
    new = await responses.resolved(tenant, asked.items, "items")
    record = await _conversation(request, to_change=True)
    responses.check_room(len(record.items) + len(new), "items")
    if not await responses.store.append(tenant, record.id, new):
        raise not_found("conversation", record.id, "conversation_id")
    return web.json_response(listing(new, more=False))


async def retrieve_item(request: web.Request) -> web.Response:
    """An item of a conversation. Raises: ApiError 404."""
    record, id = await _conversation(request), request.match_info["item"]
    for item in record.items:
        if item["id"] == id:
            return web.json_response(item)
    raise not_found("item", id, "item_id")


async def delete_item(request: web.Request) -> web.Response:
    """Drop an item of a conversation, which is returned. Raises: ApiError 404."""
    record, id = await _conversation(request, to_change=True), request.match_info["item"]
    if not await request.app[RESPONSES].store.drop_item(request[OWNER], record.id, id):
        raise not_found("item", id, "item_id")
    return web.json_response(record.body)


async def _conversation(request: web.Request, *, to_change: bool = False) -> Record:
    id, param = request.match_info["id"], "conversation_id"
    return await request.app[RESPONSES].conversation(request[OWNER], id, param, to_change=to_change)
