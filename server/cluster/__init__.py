"""Many servers as one, on Ray Serve: gateways that clients reach, chat engines behind them, and parts of a gateway."""
