"""``/v1/responses`` and ``/v1/conversations``: OpenAI's Responses for text and functions, whole and streamed."""
