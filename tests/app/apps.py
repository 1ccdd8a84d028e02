"""The app's label is its own, so that no example app can clash with it."""

from django.apps import AppConfig


class TestsAppConfig(AppConfig):
    """The app that the tests publish from."""

    name = "tests.app"
    label = "tests_app"
