"""What the project's own code keeps."""

from django.db import models


class Order(models.Model):
    """An order, of which an event tells."""

    number = models.IntegerField()
