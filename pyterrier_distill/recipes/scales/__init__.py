"""What decides a recipe's runs: small (two cores), medium (a GPU, an hour), paper (the papers' own values)."""
