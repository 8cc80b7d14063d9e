"""Models are loaded one at a time.

While transformers loads a model it sets PyTorch's default dtype for the whole process, and it imports its own modules
lazily: two loads at a time leave a model with weights of the wrong dtype, or without some of them.
"""

import threading

one_at_a_time = threading.RLock()
