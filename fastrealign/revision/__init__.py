"""ReVision (arXiv 2602.07026, section 5): a vision-language model trained on text that stands in for images.

    data        batches: examples (examples.py, example_files.py, conversations.py) with their rows (matching.py), token ids and
                loss masks (templates.py)
    model       the adapter (adapter.py) in front of a causal language model (language_model.py)
    config      options of a training run, and their YAML file (config_file.py)
    train       stage 1 (the adapter, on text) and stage 2 (the language model too), with checkpoints (checkpoints.py), paths
                checked first (paths.py) and a record of the run (record.py)
    evaluate    captions, questions and probes about real images (answers.py)
    lmms        a trained model for lmms-eval

Needs the extra `revision` (torch, transformers, accelerate, PyYAML).
"""
