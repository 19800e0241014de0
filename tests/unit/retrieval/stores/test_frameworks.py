"""sentence-transformers and LangChain: embeddings are mapped by role on their way."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core.errors import InputError

D = 8


@pytest.mark.slow  # imports transformers
def test_sentence_transformers(roles, tmp_path):
    """A random model of words, with and without the module; queries, documents, pictures; saved and loaded."""
    torch = pytest.importorskip("torch")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    from fastrealign.retrieval.sentence_module import RoleAlign

    known = {word: i for i, word in enumerate(["[UNK]", "a", "cat", "dog", "two", "red"])}
    tokenizer = Tokenizer(models.WordLevel(known, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = StaticEmbedding(
        tokenizer, embedding_weights=np.random.default_rng(0).standard_normal((6, D)).astype(np.float32)
    )
    plain = sentence_transformers.SentenceTransformer(modules=[words], device="cpu")
    model = sentence_transformers.SentenceTransformer(modules=[words, RoleAlign(roles)], device="cpu")
    texts = ["a cat", "two red dog", "red"]
    raw = plain.encode(texts)
    model.save(str(tmp_path / "model"))
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    for one in (model, loaded):
        np.testing.assert_allclose(one.encode(texts), roles["text"](raw), atol=1e-6)
        np.testing.assert_allclose(one.encode_document(texts), roles["text"](raw), atol=1e-6)
        np.testing.assert_allclose(one.encode_query(texts), roles["query"](raw), atol=1e-6)
    module = RoleAlign(roles)
    pictures = module({"sentence_embedding": torch.tensor(raw), "modality": "image"})["sentence_embedding"]
    np.testing.assert_allclose(pictures, roles["image"](raw), atol=1e-6)
    fixed = RoleAlign(roles, role="image")({"sentence_embedding": torch.tensor(raw)})["sentence_embedding"]
    assert torch.equal(fixed, pictures)
    with pytest.raises(InputError, match="there is no role 'audio' for these inputs; the roles are query, text, image"):
        module({"sentence_embedding": torch.tensor(raw), "modality": "audio"})
    with pytest.raises(InputError, match="there is no role 'txt', did you mean 'text'"):
        RoleAlign(roles, role="txt")


def test_langchain(roles):
    """The wrapper of docs/stores.md, over LangChain's store in memory."""
    pytest.importorskip("langchain_core")
    import re
    from pathlib import Path

    from langchain_core.vectorstores import InMemoryVectorStore

    page = (Path(__file__).resolve().parents[4] / "docs" / "stores.md").read_text()
    (code,) = re.findall(r"```python\n(from langchain_core.*?)```", page, re.S)
    names = {}
    exec(code, names)
    raw = {text: np.random.default_rng(i).standard_normal(D) for i, text in enumerate(["cat", "dog", "a cat"])}

    class Words(names["Embeddings"]):
        def embed_documents(self, texts):
            return [raw[text].tolist() for text in texts]

        def embed_query(self, text):
            return raw[text].tolist()

    store = InMemoryVectorStore(names["Aligned"](Words(), roles))
    store.add_texts(["cat", "dog"])
    found = dict((document.page_content, score) for document, score in store.similarity_search_with_score("a cat", k=2))
    query = roles["query"](raw["a cat"])
    for text, score in found.items():
        assert score == pytest.approx(float(query @ roles["text"](raw[text])), abs=1e-6)
