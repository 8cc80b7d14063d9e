"""How the generator of pictures is trained; nothing that serves imports this."""
