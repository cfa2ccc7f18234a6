"""The road that data comes in by: log tables, adapters, preparation, the Dataset."""
