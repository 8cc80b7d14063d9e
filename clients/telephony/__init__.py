"""The telephone adapter: Twilio's Media Streams and ConversationRelay talk to a Loquent server through it."""
