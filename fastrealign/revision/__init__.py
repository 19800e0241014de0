"""ReVision (arXiv 2602.07026, section 5): a vision-language model trained on text that stands in for images.

    data      conversations and captions, embeddings looked up by id, batches with loss masks
    model     the adapter in front of a causal language model
    config    what a training run takes
    train     stage 1 (the adapter, on text) and stage 2 (the language model too)
    evaluate  captions, questions and probes on real images
    world     the demo's scenes as a world to train in

Needs the extra `revision` (torch, transformers, accelerate, PyYAML).
"""
