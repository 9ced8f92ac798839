"""Documents to passages: chunking, embeddings and the vector store. Only serving opens it."""
