"""Tests of tables and pages have a synthetic study."""

from synthetic_study import build, builder, run  # noqa: F401 - fixtures
