"""Lengths of time in the units of the engine's clocks: microseconds since the epoch, and seconds."""

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
