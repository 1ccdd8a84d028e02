"""How Sphinx builds these pages: `make docs`."""

import os
import sys
from pathlib import Path

import django

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

# Autodoc imports the models, for which Django has to be set up.
os.environ["DJANGO_SETTINGS_MODULE"] = "docs_settings"
django.setup()

from django_broadcaster import __version__  # noqa: E402  # after django.setup()

project = "django-broadcaster"
author = "django-broadcaster contributors"
copyright = author
# tools/docs_versions.py sets these variables, where the site has several versions.
docs_version = os.environ.get("DOCS_VERSION", "")
version = release = docs_version or __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "django_broadcaster.sphinx",
    "builtin_names",
    "diagrams",
    "house_docstrings",
    "generated",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates"]
default_role = "code"
# An option is pasted as it is shown: `--file`, not an en dash.
smartquotes = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
# Types that appear in signatures but are documented elsewhere: by Python, Django, or not at all.
nitpick_ignore_regex = [
    (r"py:.*", r"(builtins|collections|contextlib|dataclasses|datetime|django)\b.*"),
    (r"py:.*", r"(opentelemetry|pathlib|ssl|typing)\b.*"),
    (r"py:.*", r"django_broadcaster\.events\.absent\.Absent"),
    (r"py:.*", r"django_broadcaster\.(registry\.(E|F|Result)|publishers\.E)"),
    (r"py:.*", r"django_broadcaster\.typed_events\.\w+\.(EventClass|T|U)"),
    (r"py:.*", r"django_broadcaster\.model_events\.\w+\.(Model|M)"),
    (r"py:.*", r"Further"),
    (r"py:.*", r"django_broadcaster\.backends\.(connected\.ConnectionT|errors\.Code)"),
    (r"py:.*", r"django_broadcaster\.backends\.(base\.Thread|bindings\.Binding)"),
    (r"py:.*", r"django_broadcaster\.backends\.(in_flight\.Packed|outcomes\.MessageBatch)"),
    (r"py:.*", r"django_broadcaster\.backends\.(options\.T|names\.HasFields)"),
    (r"py:.*", r"urllib\.parse\.SplitResult"),
    (r"py:.*", r"django_broadcaster\.publishing\.asynchronous\.Result"),
    (r"py:.*", r"(TransactionManagement|NotSupported)Error"),
    (r"py:.*", r"(Any|Callable|Mapping|Sequence|ClassVar|Final|Self|TextIO|VerifyMode)"),
]

html_theme = "furo"
pygments_dark_style = "monokai"
html_static_path = ["_static"]
html_css_files = ["pages.css", "versions.css"]
html_favicon = "_static/favicon.svg"
html_baseurl = os.environ.get("DOCS_CANONICAL", "")
html_context = {"docs_version": docs_version}
html_title = f"django-broadcaster {release}"
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
