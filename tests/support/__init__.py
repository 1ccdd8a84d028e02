"""Helpers that several packages of tests share: servers of their own, and ways to disturb them."""
