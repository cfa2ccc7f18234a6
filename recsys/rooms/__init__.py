"""Live-room recommendation: the live state, features from it, the model."""
