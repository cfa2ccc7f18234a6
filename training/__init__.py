"""Training jobs: configuration, pipeline, tracking, promotion."""
