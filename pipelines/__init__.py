"""Stages that turn a conversation into a streamed reply, and the models behind them."""
