"""The rendered world as the paper's figures need it, beyond what `fastrealign demo` and `fastrealign train demo` do.

shipped   train the encoder and remake the embeddings in fastrealign/cli/demo/data
losses    the rendered encoder with SigLIP's loss, too
sets      worlds with more sets, another family of scenes, and an encoder trained on siblings
recipes   a model trained in such a world: other methods, captions and amounts of data
"""
