"""MQTT 5: every event becomes one message of QoS 1, acknowledged by the server.

    content type      `application/cloudevents+json`, or the data's own media type in binary mode
    user properties   the event's attributes by their names, `datacontenttype` among them, in binary
                      mode only
    expiry interval   the seconds until the event's `expirytime`, if it has one
    payload           the event in the JSON format, or its data in binary mode

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/mqtt-protocol-binding.md

`backend` is the backend itself, `sender` sends a batch over the `connection`, `packets` is what
goes over it, and `names` where it goes. The acknowledgement (PUBACK) says that the server has taken
the message for those who are subscribed now. Without any subscriber it is acknowledged and gone.
"""

from .backend import MQTTBackend

__all__ = ["MQTTBackend"]
