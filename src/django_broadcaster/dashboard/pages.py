"""The base class of this package's own pages on an admin site."""

from __future__ import annotations

from typing import Any, ClassVar

import django
from django.contrib.admin import AdminSite
from django.db import models
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

APP = "django_broadcaster"

HAS_BREADCRUMB_LIST = django.VERSION >= (6, 1)
"""Whether the admin's breadcrumbs are a list, which its stylesheet requires."""

Crumb = tuple[str, str]
"""The text and the address of a page above another one."""


class AdminPages:
    """The pages of one model on one site; `folder` has their templates."""

    model: ClassVar[type[models.Model]]
    folder: ClassVar[str]

    def __init__(self, site: AdminSite) -> None:
        self._site = site

    def _page(
        self,
        request: HttpRequest,
        name: str,
        title: str,
        more: dict[str, Any],
        *,
        above: tuple[Crumb, ...] = (),
        crumb: str = "",
    ) -> TemplateResponse:
        """Return a page.

        Args:
            request: The request.
            name: The name of the template.
            title: The heading.
            more: What else the template needs.
            above: The breadcrumbs between the app and this page.
            crumb: The last breadcrumb, else the title.
        """
        request.current_app = self._site.name
        context = {
            **self._site.each_context(request),
            "title": title,
            "opts": self.model._meta,
            "has_breadcrumb_list": HAS_BREADCRUMB_LIST,
            "crumbs": above,
            "crumb": crumb or title,
            "back": above[-1][1] if above else "",
            **more,
        }
        template = f"admin/{APP}/{self.folder}/{name}.html"
        return TemplateResponse(request, template, context)

    def _list(self) -> Crumb:
        """Return the breadcrumb of the list of the model."""
        name = str(self.model._meta.verbose_name_plural)
        return name[:1].upper() + name[1:], self._url("changelist")

    def _url(self, name: str, *arguments: Any) -> str:
        view = f"admin:{APP}_{self.model._meta.model_name}_{name}"
        return reverse(view, args=arguments, current_app=self._site.name)
