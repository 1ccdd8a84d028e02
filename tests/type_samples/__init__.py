"""How type checkers see the documented API."""
