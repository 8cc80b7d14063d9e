"""The engine: many streams on one model, batched continuously."""
