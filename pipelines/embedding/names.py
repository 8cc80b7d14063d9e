"""The names of the embedding models: importing this loads none of them."""

MINILM = "all-minilm-l6-v2"  # English: captions of pictures, descriptions of functions
E5 = "multilingual-e5-small"  # a hundred languages
MODELS = (MINILM, E5)  # the first that a server has is the one that a request without a name means
