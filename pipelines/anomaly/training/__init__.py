"""How the bundled detector and one of your own are trained; nothing that serves imports this."""
