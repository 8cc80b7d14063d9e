"""The parts of ``bench.listening``: what is said to the server's ears, and what each part measures."""
