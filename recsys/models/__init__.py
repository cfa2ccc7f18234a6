"""Candidate models: fit(dataset), recommend(users, k) -> Candidates."""
