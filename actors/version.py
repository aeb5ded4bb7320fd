"""The one place that says which version this is; read by setup.cfg without importing the rest."""

VERSION = "0.1.0"
