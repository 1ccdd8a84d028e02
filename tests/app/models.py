"""What the events of the tests are about."""

from django.db import models


class Order(models.Model):
    """A change that an event is published with: both are there, or neither."""

    number = models.CharField(max_length=50)
    total = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.number
