"""Text: corpora, documents, tokenizers and token arrays.

    tokenizer = load_tokenizer("bpe", 4096, trained_on="english_novels")    # .tokenizer
    corpus = load_corpus("english_novels", tokenizer)                       # .corpus
    corpus.tokens("train")                                                  # uint16, mapped from the cache

A text becomes documents (`documents`: where it is cut, which part each belongs to), documents become tokens
(`tokenizer`, `bpe`), and tokens lie in the cache one file a part (`store`). Where text comes from: `names` knows every
name, `reading` files, `token_files` text that is tokens already, `embedded` what every Python carries, `synthetic`
sources of known entropy, `hub` the Hugging Face hub.
"""
