"""Reading the journal: profiles, drift, live quality and the verdict."""
