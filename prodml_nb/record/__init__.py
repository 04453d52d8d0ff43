"""What was decided (ledger), what was built (artifacts) and what the model did (journal)."""
