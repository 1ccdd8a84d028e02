"""Tests of the catalogue of events."""
