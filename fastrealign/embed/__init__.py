"""`fastrealign embed`: images and captions to embeddings, with encoders of open_clip and transformers."""
