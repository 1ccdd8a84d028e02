"""Publishing: what a call promises to the transaction that it is made in."""
