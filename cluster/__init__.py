"""The composition: run config, command line, stages, controller, weight transport, metrics, report."""
