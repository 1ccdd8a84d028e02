"""CloudEvents: validation, the JSON event format and the official SDK. Needs no database."""
