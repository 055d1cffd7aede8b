"""What is read from disk and written to it: models, recipes, plans, reports, measured costs, pictures."""
