"""The shapes of the responses. Handlers write them as plain objects; tests compare what they write with these."""
