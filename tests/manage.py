"""Django's command line with the settings of the tests.

`BROADCASTER_TEST_WITHOUT` names a package that is to seem not installed.
"""

import os
import sys
from pathlib import Path

if missing := os.environ.get("BROADCASTER_TEST_WITHOUT"):
    sys.modules[missing] = None  # type: ignore[assignment]  # what makes an import fail

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    execute_from_command_line(sys.argv)
