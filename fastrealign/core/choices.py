"""Values that options take, which `--help` lists; in a module that imports nothing."""

# The values of `--side` and `side=`, and the side that each names.
SIDES = {"text": "source", "image": "target"}
# The formats of `fastrealign convert --to`, and their suffixes.
TARGETS = {"npy": ".npy", "parquet": ".parquet", "arrow": ".arrow", "lance": ".lance"}
