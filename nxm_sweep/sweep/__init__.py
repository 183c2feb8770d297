"""Many trials: identity, records and what runs them."""
