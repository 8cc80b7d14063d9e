"""The items of a realtime conversation in the shape of OpenAI's Conversations."""

from server.history.interface import Json

_SAID = ("output_text", "output_audio", "audio")


def api_item(id: str, body: Json) -> Json:
    """A realtime item as ``GET /v1/conversations/{id}/items`` shows it: sound becomes its transcript."""
    head = {"id": id, "type": body["type"], "status": body.get("status") or "completed"}
    if body["type"] == "function_call":
        names = {"call_id": body.get("call_id") or id, "name": body["name"], "arguments": body["arguments"]}
        return head | names
    if body["type"] == "function_call_output":
        return head | {"call_id": body["call_id"], "output": body["output"]}
    role = body["role"]
    parts = [_part(part, by_assistant=role == "assistant") for part in body.get("content") or ()]
    notes = {"loquent": body["loquent"]} if body.get("loquent") else {}
    return head | {"role": role, "content": parts} | notes


def _part(part: Json, *, by_assistant: bool) -> Json:
    text = (part.get("transcript") if "audio" in part["type"] else part.get("text")) or ""
    if by_assistant or part["type"] in _SAID:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}
