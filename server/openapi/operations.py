"""The operations of the HTTP interface: what each one reads and answers. A test compares them with the router."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from pipelines.speech.formats import CONTENT_TYPES
from server.api import client_secrets, completions, embeddings, images, moderations, speech, transcriptions
from server.api.chat import request as chat_request
from server.api.requests import Harmless
from server.api.responses import conversations
from server.api.responses import request as response_request
from server.api.responses.stored import LARGEST_PAGE, PAGE
from server.links import IMAGES
from server.openapi.shapes import chat as chats
from server.openapi.shapes import common
from server.openapi.shapes import responses as shapes
from server.web import page, widget

Json = dict[str, Any]
PATHS = ("/openapi.json", "/v1/realtime/schema.json")  # of the documents themselves


@dataclass(frozen=True, slots=True)
class Body:
    """A body in JSON, as ``requests.read`` reads it."""

    model: type[BaseModel]
    ignored: Mapping[str, Harmless] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    id: str
    summary: str
    answer: Any = None  # the type of the JSON that it answers with
    others: Mapping[str, Json] = field(default_factory=dict)  # the schemas of other content types that it answers with
    event: Any = None  # the type of the data of a server-sent event, where there is one
    body: Body | None = None
    form: Json | None = None  # the schema of a form that it reads
    query: Mapping[str, Json] = field(default_factory=dict)
    keyed: bool = True  # whether it needs a key, where the server has any
    status: int = 200
    errors: tuple[int, ...] = ()  # besides those that every request may have


TEXT: Json = {"type": "string"}
BINARY: Json = {"type": "string", "format": "binary"}
STREAM: Json = {  # each event
    "text/event-stream": {
        "type": "object",
        "required": ["data"],
        "properties": {"event": TEXT, "data": {"type": "string", "contentMediaType": "application/json"}},
    }
}
PAGING: Mapping[str, Json] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": PAGE},
    "order": {"type": "string", "enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string", "description": "The id of the entry before the first one."},
}
HANDSHAKE: Mapping[str, Json] = {
    "model": TEXT,
    "intent": {"type": "string", "enum": ["conversation", "transcription"]},
    "session": {"type": "string", "description": "A resume token, from session.created."},
    "after": {"type": "string", "description": "The event_id of the last event that was received."},
}
FORM: Json = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": BINARY,
        "model": TEXT,
        "language": TEXT,
        "prompt": TEXT,
        "response_format": {"type": "string", "enum": list(transcriptions.Format.__args__)},  # type: ignore[attr-defined]
        "temperature": {"type": "number", "minimum": 0, "maximum": 1},
        "timestamp_granularities[]": {"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}},
        "stream": {"type": "boolean"},
    },
}
TRANSCRIPTS: Mapping[str, Json] = {"text/plain": TEXT, "application/x-subrip": TEXT, "text/vtt": TEXT, **STREAM}
WORDS = common.TranscriptionObject | common.VerboseTranscription

_RESPONSES = (
    Operation(
        "POST",
        "/v1/responses",
        "createResponse",
        "Answer a conversation, whole or as semantic events.",
        shapes.ResponseObject,
        STREAM,
        body=Body(response_request.ResponseRequest, response_request.IGNORED, response_request.REFUSED),
        errors=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/responses/{id}",
        "getResponse",
        "A response that is stored, or in progress.",
        shapes.ResponseObject,
        query={"stream": {"type": "string", "not": {"const": "true"}}},
        errors=(404,),
    ),
    Operation(
        "DELETE", "/v1/responses/{id}", "deleteResponse", "Drop a response.", shapes.ResponseDeleted, errors=(404,)
    ),
    Operation(
        "GET",
        "/v1/responses/{id}/input_items",
        "listInputItems",
        "What a stored response answered.",
        shapes.ItemList,
        query=PAGING,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/responses/{id}/cancel",
        "cancelResponse",
        "Stop a response in progress.",
        shapes.ResponseObject,
        errors=(404,),
    ),
)

_CONVERSATIONS = (
    Operation(
        "POST",
        "/v1/conversations",
        "createConversation",
        "A new conversation.",
        shapes.Conversation,
        body=Body(conversations.ConversationRequest, required=False),
        errors=(404,),
    ),
    Operation(
        "GET",
        "/v1/conversations",
        "listConversations",
        "The conversations, newest first.",
        shapes.ConversationList,
        query=PAGING,
        errors=(404,),
    ),
    Operation(
        "GET", "/v1/conversations/{id}", "getConversation", "A conversation.", shapes.Conversation, errors=(404,)
    ),
    Operation(
        "POST",
        "/v1/conversations/{id}",
        "updateConversation",
        "Change a conversation's metadata.",
        shapes.Conversation,
        body=Body(conversations.MetadataRequest),
        errors=(404, 409),
    ),
    Operation(
        "DELETE",
        "/v1/conversations/{id}",
        "deleteConversation",
        "Drop a conversation.",
        shapes.ConversationDeleted,
        errors=(404,),
    ),
    Operation(
        "GET",
        "/v1/conversations/{id}/items",
        "listItems",
        "The items of a conversation, newest first.",
        shapes.ItemList,
        query=PAGING,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/conversations/{id}/items",
        "addItems",
        "Add items to a conversation.",
        shapes.ItemList,
        body=Body(conversations.ItemsRequest),
        errors=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/conversations/{id}/items/{item}",
        "getItem",
        "An item of a conversation.",
        shapes.AnyItem,
        errors=(404,),
    ),
    Operation(
        "DELETE",
        "/v1/conversations/{id}/items/{item}",
        "deleteItem",
        "Drop an item of a conversation.",
        shapes.Conversation,
        errors=(404, 409),
    ),
)

_CHAT = (
    Operation(
        "POST",
        "/v1/chat/completions",
        "createChatCompletion",
        "Answer a conversation, whole or as server-sent events.",
        chats.ChatCompletion,
        STREAM,
        chats.ChatCompletionChunk,
        body=Body(chat_request.ChatRequest, chat_request.IGNORED, chat_request.REFUSED),
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/completions",
        "createCompletion",
        "Complete prompts.",
        chats.Completion,
        STREAM,
        chats.Completion,
        body=Body(completions.CompletionRequest, completions.IGNORED),
        errors=(404,),
    ),
)

_OTHERS = (
    Operation(
        "POST",
        "/v1/audio/speech",
        "createSpeech",
        "Speak a text; the sound is sent while it is synthesised.",
        others=dict.fromkeys(CONTENT_TYPES.values(), BINARY) | STREAM,
        body=Body(speech.SpeechRequest, speech.IGNORED),
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/audio/transcriptions",
        "createTranscription",
        "The words of a sound file.",
        WORDS,
        TRANSCRIPTS,
        form=FORM,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/audio/translations",
        "createTranslation",
        "The words of a sound file, in English.",
        WORDS,
        TRANSCRIPTS,
        form=FORM,
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/images/generations",
        "createImage",
        "Draw what a prompt asks for.",
        common.Images,
        body=Body(images.ImageRequest, images.IGNORED),
        errors=(404,),
    ),
    Operation(
        "GET",
        IMAGES + "{id}.png",
        "getImage",
        "The file of a picture; its signed link is the credential.",
        others={"image/png": BINARY, "image/webp": BINARY, "image/jpeg": BINARY},
        query={"expires": TEXT, "signature": TEXT},
        keyed=False,
        errors=(403, 404, 410, 503),
    ),
    Operation(
        "POST",
        "/v1/moderations",
        "createModeration",
        "The anomaly detector's verdicts on texts.",
        common.Moderation,
        body=Body(moderations.ModerationRequest),
        errors=(404,),
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        "createEmbedding",
        "Embeddings of texts.",
        common.Embeddings,
        body=Body(embeddings.EmbeddingRequest, {"user": "any"}),
        errors=(404,),
    ),
    Operation("GET", "/v1/models", "listModels", "The names that can be asked for.", common.ModelList),
    Operation("GET", "/v1/models/{name}", "getModel", "One of them.", common.Model, errors=(404,)),
)

_REALTIME = (
    Operation(
        "GET",
        "/v1/realtime",
        "connectRealtime",
        "A websocket for the OpenAI Realtime protocol; /v1/realtime/schema.json has its events.",
        query=HANDSHAKE,
        status=101,
        errors=(404,),
    ),
    Operation(
        "GET",
        PATHS[1],
        "getRealtimeSchema",
        "The JSON Schema of the websocket's events.",
        dict[str, Any],
        keyed=False,
    ),
    Operation(
        "POST",
        "/v1/realtime/client_secrets",
        "createClientSecret",
        "A short-lived key for a browser, and what it may do.",
        common.ClientSecret,
        body=Body(client_secrets.SecretRequest, required=False),
    ),
)

_OPERATING = (
    Operation("GET", PATHS[0], "getOpenApi", "This document.", dict[str, Any], keyed=False),
    Operation("GET", "/livez", "getLiveness", "Whether the process responds.", common.Status, keyed=False),
    Operation(
        "GET", "/readyz", "getReadiness", "Whether turns are accepted.", common.Status, keyed=False, errors=(503,)
    ),
    Operation("GET", "/metrics", "getMetrics", "Counters for Prometheus.", others={"text/plain": TEXT}),
    *(
        Operation(
            "GET",
            path,
            f"getPage_{name.replace('.', '_')}",
            "The first page, or a file of it.",
            others={kind: TEXT},
            keyed=False,
            errors=(404,),
        )
        for path, (name, kind) in page.FILES.items()
    ),
    *(
        Operation("GET", path, id, summary, others={"text/javascript": TEXT}, keyed=False, errors=(404,))
        for path, id, summary in (
            (widget.LATEST, "getWidget", "The chat widget, in its newest version."),
            (widget.VERSIONED, "getWidgetVersion", "The chat widget, in the version that this server has."),
            (widget.MICROPHONE, "getRecorder", "What the chat widget has on the browser's audio thread."),
        )
    ),
)

OPERATIONS = (*_CHAT, *_RESPONSES, *_CONVERSATIONS, *_OTHERS, *_REALTIME, *_OPERATING)
