"""Measures Loquent, its stages and its peers; see ``make bench``."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' progress bars would write across the benches' own
