"""The chat stage over servers elsewhere that speak OpenAI's chat completions."""
