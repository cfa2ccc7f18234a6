"""The request path of a live-room backend."""

from serving.answer import Answer, Entry, NotServed, RequestError
from serving.recommender import Recommender

__all__ = ["Answer", "Entry", "NotServed", "Recommender", "RequestError"]
