"""The operator's dashboard in Django's admin: figures, plots, stuck events, pause and resume.

- `views` has its pages and their JSON. `state`, `history` and `stuck` collect the figures.
- `event_page` shows the history of an event, and `display` formats values.
- `operations_form` is the form of an operation, `operations_views` has its pages.
  `operations_filter` copies the filters of the event list into the form, and `operations_audit`
  writes the admin's log.
"""
