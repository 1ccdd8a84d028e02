"""Django's command line: `python example/manage.py outbox_worker`.

It is the shop's; for billing's add `--settings billing_site.settings`.
"""

import os
import sys


def main() -> None:
    """Run a management command, with the shop's settings unless there are others."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
