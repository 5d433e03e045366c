"""Who is in the run and what happens next."""
