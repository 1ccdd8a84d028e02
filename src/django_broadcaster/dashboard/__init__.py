"""The operator's dashboard, in Django's admin: figures, plots, what is stuck, and the switches.

`views` are its pages and the JSON that keeps them live; `state`, `history` and `trouble` what they
show; `message` what a backend sends for an event; `display` how values look.
"""
