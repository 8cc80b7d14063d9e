"""The voices: Piper, Coqui, and what each of them must do."""
