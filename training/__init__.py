"""Training jobs: configuration, pipeline, tracking, promotion."""

from recsys.openmp import wait_passively

wait_passively()
