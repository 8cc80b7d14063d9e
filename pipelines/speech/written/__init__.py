"""Rules that write out what people say of written forms, one file a kind of form."""
