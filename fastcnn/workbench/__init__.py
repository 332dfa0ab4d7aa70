"""What a person runs: measurements, claims, tuning, verification, training, the demonstration."""
