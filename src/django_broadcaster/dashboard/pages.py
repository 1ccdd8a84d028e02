"""The base class of this package's own pages on an admin site."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.admin import AdminSite
from django.db import models
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

APP = "django_broadcaster"


class AdminPages:
    """The pages of one model on one site; `folder` has their templates."""

    model: ClassVar[type[models.Model]]
    folder: ClassVar[str]

    def __init__(self, site: AdminSite) -> None:
        self._site = site

    def _page(
        self, request: HttpRequest, name: str, title: str, more: dict[str, Any]
    ) -> TemplateResponse:
        request.current_app = self._site.name
        context = {
            **self._site.each_context(request),
            "title": title,
            "opts": self.model._meta,
            **more,
        }
        template = f"admin/{APP}/{self.folder}/{name}.html"
        return TemplateResponse(request, template, context)

    def _url(self, name: str, *arguments: Any) -> str:
        view = f"admin:{APP}_{self.model._meta.model_name}_{name}"
        return reverse(view, args=arguments, current_app=self._site.name)
