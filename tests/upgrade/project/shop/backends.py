"""A backend as 0.1.1 documents it."""

import json

import redis
from django_broadcaster.backends import PublisherBackend


class ListBackend(PublisherBackend):
    """Appends each event to a list of Redis."""

    def __init__(self, config):
        """Connect to the server that the dictionary names."""
        self.config = config
        self.client = redis.Redis(**config["redis"])

    def publish(self, event):
        """Append the event; one about order 13 fails at its first attempt."""
        if event.data["number"] == 13 and event.retry_count == 0:
            return False
        entry = {**event.to_cloud_event(), "row": str(event.id)}
        self.client.rpush(self.config["key"], json.dumps(entry))
        return True

    def health_check(self):
        """Return True if the server answers."""
        return self.client.ping()
