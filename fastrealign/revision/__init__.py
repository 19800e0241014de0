"""ReVision (arXiv 2602.07026, section 5): a vision-language model trained on text that stands in for images.

    data        batches: examples (examples.py), embeddings by id (embeddings.py), prompts and loss masks (templates.py)
    model       the adapter (adapter.py) in front of a causal language model
    config      what a training run takes
    train       stage 1 (the adapter, on text) and stage 2 (the language model too); what it leaves (checkpoints.py)
    evaluate    captions, questions and probes on real images
    world       the demo's scenes as a world to train in, its language model (backbone.py), a run of all of it (demo.py)

Needs the extra `revision` (torch, transformers, accelerate, PyYAML).
"""
