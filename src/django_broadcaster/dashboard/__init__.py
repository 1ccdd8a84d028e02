"""The operator's dashboard, in Django's admin: figures, plots, what is stuck, and the switches.

`views` are its pages and the JSON that keeps them live; `state`, `history` and `trouble` what they
show; `event_page` is the life of an event, and `display` how values look.

`operations_form` says what is to be done to which events, `operations_filter` brings the filter of
the list of events to it, `operations_views` are the pages, and `operations_audit` is the log.
"""
