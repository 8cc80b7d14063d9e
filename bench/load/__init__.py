"""A load of many Realtime users, from several processes."""
