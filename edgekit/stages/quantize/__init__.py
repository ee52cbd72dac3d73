"""Schemes, calibration, conversion, and the choice of which op runs in which dtype."""
