"""How much a key, a client secret and an address may use in a time."""
