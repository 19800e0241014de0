"""Tables and pictures of the paper (arXiv 2602.07026), measured again, one file each."""
