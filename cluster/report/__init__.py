"""The report: one HTML file with a run's curves, tables and trajectories, readable without a server."""

from cluster.report.page import write_report

__all__ = ["write_report"]
