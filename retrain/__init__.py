"""The training door: claims runs from the database, writes adapters, opens experiments. It never calls serving."""
