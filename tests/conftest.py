"""Makes `tests` importable: what tests share is imported as ``tests.simulation.network`` and so on."""
