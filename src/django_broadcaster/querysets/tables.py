"""Names of tables and columns, for the statements written in SQL."""

EVENTS = "django_broadcaster_outboxevent"
RELAYS = "django_broadcaster_relay"
PARTITIONS = "django_broadcaster_partition"
JSON_COLUMNS = ("extensions", "data", "publisher_config")
BACKENDS = "django_broadcaster_backendstate"
ATTEMPTS = "django_broadcaster_attempt"
ARCHIVE = "django_broadcaster_archivedevent"
OPERATIONS = "django_broadcaster_operation"
SAMPLES = "django_broadcaster_sample"
