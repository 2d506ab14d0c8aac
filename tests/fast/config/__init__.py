"""Tests of graceful.config."""
