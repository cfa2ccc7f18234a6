"""The request path of a live-room backend."""
