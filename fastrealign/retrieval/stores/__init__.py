"""Where vectors live: FAISS index files, LanceDB, Qdrant, PostgreSQL with pgvector; one small protocol (base.py)."""
