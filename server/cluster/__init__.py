"""Many servers as one, on Ray Serve: gateways that clients reach, and chat engines behind them."""
